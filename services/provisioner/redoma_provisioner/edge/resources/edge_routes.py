"""Where the edge leads: an allowlist of methods, health, preflights, and refusals for all else."""

from redoma_kit.identity import METADATA_KEY
from redoma_kit.rest import RestPath, method_path
from redoma_kit.routing import REPLICA_KEY
from redoma_provisioner.edge.resources.api import CHAT, edge_methods, engine_service
from redoma_provisioner.edge.resources.tls import type_url
from redoma_provisioner.edge.snapshot import Config
from redoma_provisioner.settings import EdgeSettings

ROUTE_TABLE = "edge"
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"
GRPC_CONTENT_TYPE = r"application/grpc(-web(-text)?)?(\+proto)?(;.*)?"
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
ALLOWED_HEADERS = (
    "authorization,x-api-key,content-type,accept,x-request-id,x-grpc-web,x-user-agent,grpc-timeout,"
    "connect-protocol-version,connect-timeout-ms,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,"
    "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,"
    "x-stainless-timeout,x-stainless-helper-method"
)
EXPOSED_HEADERS = (
    "grpc-status,grpc-message,grpc-status-details-bin,x-request-id,retry-after,x-should-retry,"
    "x-ratelimit-limit-requests,x-ratelimit-remaining-requests,x-ratelimit-reset-requests,"
    "x-ratelimit-limit-tokens,x-ratelimit-remaining-tokens,x-ratelimit-reset-tokens"
)


def route_table(settings: EdgeSettings) -> Config:
    """Gives the routes of the edge."""
    return {
        "name": ROUTE_TABLE,
        "virtual_hosts": [
            {
                "name": "edge",
                "domains": ["*"],
                "routes": _routes(settings),
                # The tenant service removes the credential when it answers; this holds should it not.
                "request_headers_to_remove": list(CREDENTIAL_HEADERS),
                "response_headers_to_remove": [METADATA_KEY],
                "typed_per_filter_config": {"envoy.filters.http.cors": _cors(settings)},
            }
        ],
    }


def _routes(settings: EdgeSettings) -> list[Config]:
    routes: list[Config] = [
        {
            "match": {"path": "/healthz"},
            "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
            **_without_authorization(),
        },
        *_method_routes(),
    ]
    if settings.reflection:
        routes += [
            {
                "match": {"prefix": f"/{service}/"},
                "route": {"cluster": CHAT, "timeout": "0s"},
                **_without_authorization(),
            }
            for service in REFLECTION_SERVICES
        ]
    # The CORS filter answers every preflight, but only on a route that has a cluster.
    preflight = [_verb("OPTIONS"), _present("origin"), _present("access-control-request-method")]
    routes.append({"match": {"prefix": "/", "headers": preflight}, "route": {"cluster": CHAT}})
    # Wrong verbs and unknown paths are refused without asking who calls.
    for rule in (rule for method in edge_methods() for rule in method.rest):
        allowed = {"header": {"key": "allow", "value": rule.verb}}
        routes.append(
            {
                "match": _rest_path(rule),
                "direct_response": {"status": 405},
                "response_headers_to_add": [allowed],
                **_without_authorization(),
            }
        )
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 404}, **_without_authorization()})
    return routes


def _method_routes() -> list[Config]:
    of_engine = {method_path(method) for method in engine_service().methods}
    routes: list[Config] = []
    for method in edge_methods():
        route: Config = {
            "route": {
                "cluster": method.cluster,
                # The client's own deadline travels in grpc-timeout to the service, which ends the call with a status
                # that says so; Envoy would reset the stream, and with a duration on the route it would send that
                # instead of the client's. The connection manager bounds streams.
                "timeout": "0s",
            }
        }
        if method.path not in of_engine:
            route["request_headers_to_remove"] = [REPLICA_KEY]
        # grpc-web is application/grpc-web, so Envoy's own matcher for gRPC would not do.
        content_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": GRPC_CONTENT_TYPE}}}
        routes.append({"match": {"path": method.path, "headers": [_verb("POST"), content_type]}, **route})
        for rule in method.rest:
            routes.append({"match": {**_rest_path(rule), "headers": [_verb(rule.verb)]}, **route})
    return routes


def _rest_path(rule: RestPath) -> Config:
    return {"path": rule.template} if rule.literal else {"safe_regex": {"regex": rule.regex}}


def _cors(settings: EdgeSettings) -> Config:
    origins: list[Config] = [
        {"safe_regex": {"regex": LOCAL_ORIGINS}},
        *({"exact": origin} for origin in settings.origins),
    ]
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": origins,
        "allow_methods": "GET, POST, OPTIONS",
        "allow_headers": ALLOWED_HEADERS,
        "expose_headers": EXPOSED_HEADERS,
        "max_age": "600",
        "forward_not_matching_preflights": False,
    }


def _without_authorization() -> Config:
    return {
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": {
                "@type": type_url("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"),
                "disabled": True,
            }
        }
    }


def _verb(verb: str) -> Config:
    return {"name": ":method", "string_match": {"exact": verb}}


def _present(name: str) -> Config:
    return {"name": name, "present_match": True}
