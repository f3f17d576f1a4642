"""What the gateway, the Envoy of a private site, is served.

It listens on no port: it dials the public site and leaves connections there, its tunnels, through which it is called.
Its listener never changes while it runs, since a changed one would end the calls on it.
"""

from redoma_kit.policy import spiffe_id
from redoma_kit.routing import REPLICA_KEY
from redoma_provisioner.edge.resources.clusters import BUFFER_BYTES, circuit_breakers, fixed_endpoint
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.refusals import (
    NO_SERVICE,
    NOT_EXPOSED,
    not_sent_replies,
    refusing_route,
)
from redoma_provisioner.edge.resources.stream_manager import keepalive, stream_manager, windows
from redoma_provisioner.edge.resources.tls import BY_DISCOVERY, downstream_tls, identity_secrets, type_url, upstream_tls
from redoma_provisioner.edge.resources.tunnels import tunnel_server_name
from redoma_provisioner.edge.snapshot import Config, Snapshot
from redoma_provisioner.edge.state import Exposed, GatewayState
from redoma_provisioner.settings import ProxySettings

TUNNEL = "tunnel"
EGRESS = "egress"
EXPOSED = "exposed"
# A model ends a stream at the limit with a status that says why; the gateway cuts one that goes on, after the egress.
STREAM_MARGIN_S = 15
CONNECT_TIMEOUT_S = 1
# How long nothing that was sent may be confirmed. A second try to connect is made after one second.
UNHEARD_MS = 1_500
_IPPROTO_TCP, _TCP_USER_TIMEOUT = 6, 18
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def gateway_snapshot(files: ProxySettings, state: GatewayState, max_stream_s: float) -> Snapshot:
    """Gives all that the gateway is served.

    Args:
        files: Its identity.
        state: What it does.
        max_stream_s: The longest a call of a model may last, in seconds.

    Raises:
        InvalidAddress: An address is not one.
        DuplicateResource: Two things are exposed under the same routing key.
    """
    exposed = sorted(state.exposed, key=lambda one: one.routing_key)
    linked = bool(state.public_address)
    return Parts(
        secrets=identity_secrets(files),
        clusters=(
            *((_egress(state),) if linked else ()),
            *(_cluster(state.site, one) for one in exposed),
        ),
        listeners=(_listener(state),) if linked else (),
        routes=(_route_table(exposed, max_stream_s),),
    ).snapshot()


def exposed_cluster(routing_key: str) -> str:
    """Names the cluster of a service of the site."""
    return f"{EXPOSED}/{routing_key}"


def _listener(state: GatewayState) -> Config:
    """Gives the listener that dials. Its address says who it is, what it is part of, and how many tunnels it keeps."""
    manager = stream_manager(
        TUNNEL,
        {"rds": {"route_config_name": EXPOSED, "config_source": BY_DISCOVERY}},
        replies=not_sent_replies(NO_SERVICE),
    )
    return {
        "name": TUNNEL,
        "address": {
            "socket_address": {
                "address": f"rc://{state.site}:{state.site}:redoma@{EGRESS}:{state.tunnels}",
                "port_value": 0,
                "resolver_name": "envoy.resolvers.reverse_connection",
            }
        },
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "listener_filters_timeout": "0s",
        "filter_chains": [{"transport_socket": downstream_tls([spiffe_id("public", "egress")]), "filters": [manager]}],
    }


def _egress(state: GatewayState) -> Config:
    return {
        "name": EGRESS,
        **fixed_endpoint(EGRESS, state.public_address),
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        # Envoy's own timeout does not hold for tunnels: without this a dial goes on for as long as the link is cut,
        # ever more seldom, and is still asleep when the link is back.
        "upstream_bind_config": {
            "socket_options": [
                {
                    "description": "TCP_USER_TIMEOUT",
                    "level": _IPPROTO_TCP,
                    "name": _TCP_USER_TIMEOUT,
                    "int_value": UNHEARD_MS,
                    "state": "STATE_PREBIND",
                }
            ]
        },
        # Finds out that a tunnel which nothing uses was cut without a word.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 2, "keepalive_time": 1, "keepalive_interval": 1}
        },
        "transport_socket": upstream_tls("public", "egress", tunnel_server_name(state.site), alpn=()),
    }


def _cluster(site: str, exposed: Exposed) -> Config:
    name = exposed_cluster(exposed.routing_key)
    return {
        "name": name,
        **fixed_endpoint(name, exposed.target),
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": circuit_breakers(max_retries=0),
        "transport_socket": upstream_tls(site, exposed.service),
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": type_url(_OPTIONS),
                "explicit_http_config": {"http2_protocol_options": {**windows(), **keepalive()}},
            }
        },
    }


def _route_table(exposed: list[Exposed], max_stream_s: float) -> Config:
    return {
        "name": EXPOSED,
        "virtual_hosts": [
            {
                "name": EXPOSED,
                "domains": ["*"],
                "routes": [*(_route(one, max_stream_s) for one in exposed), refusing_route(NOT_EXPOSED)],
            }
        ],
    }


def _route(exposed: Exposed, max_stream_s: float) -> Config:
    # What watches a provisioner does so for as long as the site is linked.
    longest = f"{max_stream_s + STREAM_MARGIN_S:.3f}s" if exposed.service == "model" else "0s"
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": REPLICA_KEY, "string_match": {"exact": exposed.routing_key}}],
        },
        "route": {
            "cluster": exposed_cluster(exposed.routing_key),
            "timeout": "0s",
            "max_stream_duration": {"max_stream_duration": longest},
        },
    }
