"""What the egress, the Envoy that carries calls to private sites, is served."""

from collections.abc import Sequence

from redoma_kit.policy import spiffe_id
from redoma_kit.routing import AFFINITY_KEY, REPLICA_KEY, TENANT_KEY
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.resources.access_log import access_log
from redoma_provisioner.edge.resources.clusters import BUFFER_BYTES, address_of
from redoma_provisioner.edge.resources.flush import flush_routes
from redoma_provisioner.edge.resources.names import (
    MODELS,
    NODE_HEADER,
    NOT_SENT_HEADER,
    models_of,
    replica_cluster,
)
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.replicas import dedicated_tenants, replica_parts
from redoma_provisioner.edge.resources.stream_manager import router, windows
from redoma_provisioner.edge.resources.tls import BY_DISCOVERY, downstream_tls, identity_secrets, type_url
from redoma_provisioner.edge.resources.tunnels import tunnel_parts
from redoma_provisioner.edge.snapshot import Config, Snapshot
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.settings import EgressSettings, ProxySettings

# The model ends a stream at the limit with a status that says why; the egress cuts one that did not end later, and
# after the edge.
STREAM_MARGIN_S = 10
CALLERS = tuple(spiffe_id("public", service) for service in ("chat", "tenant", "edge", "provisioner"))
# `services` never changes, as a changed listener ends what runs on it.
SERVICES = "services"


def egress_snapshot(
    settings: EgressSettings,
    provisioner: UpstreamSettings,
    files: ProxySettings,
    max_stream_s: float,
    authorities: str,
    state: EgressState,
) -> Snapshot:
    """Gives all that the egress is served.

    Args:
        settings: Where it listens.
        provisioner: This service, for sites that join.
        files: Its identity.
        max_stream_s: The longest a call of a model may last, in seconds.
        authorities: Who signs the certificates of sites, PEM.
        state: What it leads to.

    Raises:
        InvalidAddress: An address is not one.
        DuplicateResource: Two endpoints have the same routing key.
    """
    own = Parts(
        secrets=identity_secrets(files),
        listeners=(_listener(settings),),
        routes=(_route_table(state, max_stream_s),),
    )
    return (
        own
        + replica_parts(state.replicas, state.provisioners)
        + tunnel_parts(settings, provisioner, files, authorities, state)
    ).snapshot()


def _listener(settings: EgressSettings) -> Config:
    return {
        "name": SERVICES,
        "address": address_of(settings.listen),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "transport_socket": downstream_tls(CALLERS),
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(),
                    }
                ],
            }
        ],
    }


def _connection_manager() -> Config:
    return {
        "@type": type_url("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": SERVICES,
        "codec_type": "HTTP2",
        # What the service behind reads to know who calls.
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        # A client's id only correlates, so it is passed on as it came.
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "request_headers_timeout": "10s",
        # Streams are bounded on their routes: some last as long as their site does.
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "900s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 4096,
            **windows(),
            "connection_keepalive": {"interval": "10s", "timeout": "5s"},
        },
        "access_log": [access_log("%PATH(NQ)%", replica=f"%REQ({REPLICA_KEY})%", upstream="%UPSTREAM_HOST%")],
        "http_filters": [router()],
        "rds": {"route_config_name": SERVICES, "config_source": BY_DISCOVERY},
    }


def _route_table(state: EgressState, max_stream_s: float) -> Config:
    """Gives the routes: to one service where the caller names it, else to the tenant's own models, else to all."""
    bounded = f"{max_stream_s + STREAM_MARGIN_S:.3f}s"
    unnamed: Config = {"name": REPLICA_KEY, "present_match": True, "invert_match": True}
    routes = [
        _route([unnamed, _exactly(TENANT_KEY, tenant)], models_of(tenant), bounded)
        for tenant in dedicated_tenants(state.replicas)
    ]
    routes.append(_route([unnamed], MODELS, bounded))
    for endpoints, longest in ((state.replicas, bounded), (state.provisioners, "0s")):
        for key in sorted(endpoint.routing_key for endpoint in endpoints):
            # There is nowhere else to try.
            routes.append(_route([_exactly(REPLICA_KEY, key)], replica_cluster(key), longest, {"num_retries": 0}))
    # gRPC callers get UNAVAILABLE.
    unknown = {"status": 503, "body": {"inline_string": "nothing of that routing key is reachable"}}
    routes.append({"match": {"prefix": "/"}, "direct_response": unknown})
    return {
        "name": SERVICES,
        "virtual_hosts": [
            {
                "name": SERVICES,
                "domains": ["*"],
                "routes": [*flush_routes(), *routes],
                "request_headers_to_remove": [NODE_HEADER, TENANT_KEY, NOT_SENT_HEADER],
                "response_headers_to_remove": [NOT_SENT_HEADER],
            }
        ],
    }


def _route(headers: Sequence[Config], cluster: str, longest: str, retries: Config | None = None) -> Config:
    return {
        "match": {"prefix": "/", "headers": list(headers)},
        "route": {
            "cluster": cluster,
            # The caller's own deadline travels in grpc-timeout to the service, which ends the call with a status that
            # says so.
            "timeout": "0s",
            "max_stream_duration": {"max_stream_duration": longest},
            "hash_policy": [{"header": {"header_name": AFFINITY_KEY}}],
            "retry_policy": _retries() if retries is None else retries,
        },
    }


def _retries() -> Config:
    """Tries elsewhere what reached no service, and nothing else: a call may not run twice."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
        "retriable_headers": [{"name": NOT_SENT_HEADER, "present_match": True}],
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": type_url("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
                },
            }
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.1s"},
    }


def _exactly(name: str, value: str) -> Config:
    return {"name": name, "string_match": {"exact": value}}
