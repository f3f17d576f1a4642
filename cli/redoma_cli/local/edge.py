"""The edge's Envoy configuration, as plain values in the shape of Envoy's v3 API."""

import base64
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_cli.local.api import CHAT, TENANT, edge_methods, openai_service, transcoder_descriptors
from redoma_cli.local.pki import IdentityFiles
from redoma_cli.local.ports import LOOPBACK
from redoma_cli.local.upstreams import ANSWERING, BUFFER_BYTES, Config, clusters, type_url
from redoma_kit.errors import Failure, reason_name
from redoma_kit.rest import RestPath

MAX_REQUEST_BYTES = 4 << 20
# The service ends a stream at the limit with a status that says why; the edge cuts one that did not end a little later.
STREAM_MARGIN_S = 5
# A tenant service that is down refuses at once, by its health; this bounds the wait for one that is busy.
AUTHORIZATION_TIMEOUT_S = 10
MAX_CONNECTIONS = 4096
MAX_HEADERS = 100
MAX_HEADERS_KIB = 32
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"
GRPC_CONTENT_TYPE = r"application/grpc(-web(-text)?)?(\+proto)?(;.*)?"
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# What only the edge and the services behind it may say. The Lua filter stops them with all other unknown ones; this
# holds should it not.
INTERNAL_HEADERS = (
    "redoma-identity",
    "redoma-openai-error",
    "x-node-id",
    "x-cluster-id",
    "x-tenant-id",
    "x-forwarded-client-cert",
    "x-client-cert",
    "x-ssl-client-cert",
)
# What a client gets whose request is so malformed that no filter saw it. A refusal by a filter has none of these.
MALFORMED = {
    400: "The request is not well-formed HTTP. Percent-encode what is not ASCII in the URL.",
    408: "The request took too long to arrive.",
    426: "Speak HTTP/1.1 or HTTP/2.",
    431: f"The request headers are too large. The limits are {MAX_HEADERS_KIB} KiB and {MAX_HEADERS} headers.",
    501: "This transfer encoding is not supported.",
}
# What the edge itself says to gRPC callers; to REST callers it says the same in OpenAI's shape.
TOO_LARGE = Failure(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    reason_name(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE),
    f"The request body is too large. The limit is {MAX_REQUEST_BYTES:,} bytes.",
    {"limit_bytes": str(MAX_REQUEST_BYTES)},
)
UNREACHABLE = Failure(
    grpc.StatusCode.UNAVAILABLE,
    reason_name(ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE),
    "The service is not available now. Try again in a moment.",
    {},
    retry_after_s=1.0,
)
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


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What distinguishes one edge from another.

    Attributes:
        port: Where the world calls, on loopback.
        admin_socket: Name of the admin interface's Unix socket, in the working directory.
        chat_port: Where the chat service listens, on loopback.
        tenant_port: Where the tenant service listens, on loopback.
        model_port: Where the model service listens, on loopback.
        identity: The edge's certificate and key.
        max_stream_s: The longest a call may last, in seconds.
        origins: Web origins allowed besides those of this machine, such as https://chat.example.com.
        reflection: Whether gRPC reflection is offered, to anyone.
    """

    port: int
    admin_socket: str
    chat_port: int
    tenant_port: int
    model_port: int
    identity: IdentityFiles
    max_stream_s: float
    origins: tuple[str, ...] = ()
    reflection: bool = False


def edge_config(settings: EdgeSettings) -> Config:
    """Gives the whole bootstrap configuration."""
    return {
        "node": {"id": "edge", "cluster": "edge"},
        "admin": {"address": {"pipe": {"path": settings.admin_socket, "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(settings)],
            "clusters": clusters(settings.chat_port, settings.tenant_port, settings.model_port, settings.identity),
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url(
                            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
                        ),
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def _listener(settings: EdgeSettings) -> Config:
    return {
        "name": "edge",
        "address": {"socket_address": {"address": LOOPBACK, "port_value": settings.port}},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(settings),
                    }
                ]
            }
        ],
    }


def _connection_manager(settings: EdgeSettings) -> Config:
    longest_s = settings.max_stream_s + STREAM_MARGIN_S
    return {
        "@type": type_url("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "server_name": "redoma",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "strip_any_host_port": True,
        # A client's id only correlates, so it is passed on as it came.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": type_url("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"),
                "pack_trace_reason": False,
            }
        },
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": _seconds(longest_s + STREAM_MARGIN_S),
        "common_http_protocol_options": {
            "idle_timeout": "900s",
            "max_headers_count": MAX_HEADERS,
            "max_stream_duration": _seconds(longest_s),
        },
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 256 << 10,
            "initial_connection_window_size": BUFFER_BYTES,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        "access_log": [_access_log()],
        "local_reply_config": {"mappers": [_malformed(status, message) for status, message in MALFORMED.items()]},
        "http_filters": _filters(settings),
        "route_config": {
            "name": "edge",
            "virtual_hosts": [
                {
                    "name": "edge",
                    "domains": ["*"],
                    "routes": _routes(settings),
                    # The tenant service removes the credential when it answers; this holds should it not.
                    "request_headers_to_remove": list(CREDENTIAL_HEADERS),
                    "response_headers_to_remove": ["redoma-identity"],
                    "typed_per_filter_config": {"envoy.filters.http.cors": _cors(settings)},
                }
            ],
        },
    }


def _filters(settings: EdgeSettings) -> list[Config]:
    """Lists the HTTP filters in the order in which a request meets them; a response meets them the other way round."""
    extensions = "envoy.extensions.filters.http"
    return [
        _filter(
            "health_check",
            {
                "@type": type_url(f"{extensions}.health_check.v3.HealthCheck"),
                "pass_through_mode": False,
                "headers": [{"name": ":path", "string_match": {"exact": "/readyz"}}],
                "cluster_min_healthy_percentages": {name: {"value": 100} for name in (CHAT, TENANT, ANSWERING)},
            },
        ),
        _filter("cors", {"@type": type_url(f"{extensions}.cors.v3.Cors")}),
        _filter(
            "lua",
            {"@type": type_url(f"{extensions}.lua.v3.Lua"), "default_source_code": {"inline_string": _lua()}},
        ),
        _filter("grpc_web", {"@type": type_url(f"{extensions}.grpc_web.v3.GrpcWeb")}),
        _filter(
            "header_mutation",
            {
                "@type": type_url(f"{extensions}.header_mutation.v3.HeaderMutation"),
                "mutations": {"request_mutations": [{"remove": name} for name in INTERNAL_HEADERS]},
            },
        ),
        _filter(
            "ext_authz",
            {
                "@type": type_url(f"{extensions}.ext_authz.v3.ExtAuthz"),
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": TENANT},
                    "timeout": _seconds(AUTHORIZATION_TIMEOUT_S),
                },
                "failure_mode_allow": False,
                "status_on_error": {"code": "ServiceUnavailable"},
            },
        ),
        _filter(
            "buffer", {"@type": type_url(f"{extensions}.buffer.v3.Buffer"), "max_request_bytes": MAX_REQUEST_BYTES}
        ),
        _filter(
            "grpc_json_transcoder",
            {
                "@type": type_url(f"{extensions}.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
                "proto_descriptor_bin": base64.b64encode(transcoder_descriptors()).decode(),
                "services": [openai_service().full_name],
                "match_incoming_request_route": True,
                "ignore_unknown_query_parameters": True,
                "convert_grpc_status": True,
                "print_options": {"preserve_proto_field_names": True},
                "max_request_body_size": MAX_REQUEST_BYTES,
                "max_response_body_size": 2 * MAX_REQUEST_BYTES,
            },
        ),
        _filter("router", {"@type": type_url(f"{extensions}.router.v3.Router"), "suppress_envoy_headers": True}),
    ]


def _malformed(status: int, message: str) -> Config:
    """Gives the edge's own answer of that status OpenAI's shape, except to gRPC callers."""
    is_status = {
        "status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "unused"}}}
    }
    is_rest = {
        "header_filter": {
            "header": {
                "name": "content-type",
                "string_match": {"prefix": "application/grpc"},
                "invert_match": True,
                "treat_missing_header_as_empty": True,
            }
        }
    }
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "malformed_request"}
    return {
        "filter": {"and_filter": {"filters": [is_status, is_rest]}},
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps({"error": error})},
            "content_type": "application/json",
        },
    }


def _routes(settings: EdgeSettings) -> list[Config]:
    routes: list[Config] = [
        {
            "match": {"path": "/healthz"},
            "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
            **_without_authorization(),
        }
    ]
    for method in edge_methods():
        action = {
            "cluster": method.cluster,
            # The client's own deadline travels in grpc-timeout to the service, which ends the call with a status that
            # says so; Envoy would reset the stream, and with a duration on the route it would send that instead of the
            # client's. The connection manager bounds streams.
            "timeout": "0s",
        }
        # grpc-web is application/grpc-web, so Envoy's own matcher for gRPC would not do.
        content_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": GRPC_CONTENT_TYPE}}}
        routes.append({"match": {"path": method.path, "headers": [_verb("POST"), content_type]}, "route": action})
        for rule in method.rest:
            routes.append({"match": {**_rest_path(rule), "headers": [_verb(rule.verb)]}, "route": action})
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


def _rest_path(rule: RestPath) -> Config:
    return {"path": rule.template} if rule.literal else {"safe_regex": {"regex": rule.regex}}


def _cors(settings: EdgeSettings) -> Config:
    origins: Sequence[Config] = [
        {"safe_regex": {"regex": LOCAL_ORIGINS}},
        *({"exact": origin} for origin in settings.origins),
    ]
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": list(origins),
        "allow_methods": "GET, POST, OPTIONS",
        "allow_headers": ALLOWED_HEADERS,
        "expose_headers": EXPOSED_HEADERS,
        "max_age": "600",
        "forward_not_matching_preflights": False,
    }


def _access_log() -> Config:
    """No query, no header but the request id: neither may hold content or a credential."""
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"not_health_check_filter": {}},
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "protocol": "%PROTOCOL%",
                    "verb": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
                    # As edge.lua cleans it; null where a request was refused before that.
                    "path": "%DYNAMIC_METADATA(redoma:path)%",
                    "status": "%RESPONSE_CODE%",
                    "grpc_status": "%GRPC_STATUS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "bytes_received": "%BYTES_RECEIVED%",
                    "bytes_sent": "%BYTES_SENT%",
                    "duration_ms": "%DURATION%",
                    "cluster": "%UPSTREAM_CLUSTER%",
                }
            },
        },
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


def _lua() -> str:
    script = importlib.resources.files("redoma_cli.local").joinpath("edge.lua").read_text()
    for name, failure in (("too_large", TOO_LARGE), ("unreachable", UNREACHABLE)):
        details = base64.b64encode(failure.status().SerializeToString()).decode()
        script = script.replace(f"@{name}_message@", failure.message).replace(f"@{name}_details@", details)
    return script


def _filter(name: str, config: Mapping[str, Any]) -> Config:
    return {"name": f"envoy.filters.http.{name}", "typed_config": dict(config)}


def _verb(verb: str) -> Config:
    return {"name": ":method", "string_match": {"exact": verb}}


def _present(name: str) -> Config:
    return {"name": name, "present_match": True}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def render_edge_config(settings: EdgeSettings) -> bytes:
    """Gives the configuration as the JSON file that Envoy starts from."""
    return (json.dumps(edge_config(settings), indent=1) + "\n").encode()


def edge_port(file: Path) -> int:
    """Reads the port the world calls from a rendered configuration.

    Raises:
        OSError: It can't be read.
        ValueError: It is no such configuration.
    """
    try:
        listener = json.loads(file.read_bytes())["static_resources"]["listeners"][0]
        return int(listener["address"]["socket_address"]["port_value"])
    except (LookupError, TypeError) as error:
        raise ValueError(f"{file} is not an edge's configuration") from error
