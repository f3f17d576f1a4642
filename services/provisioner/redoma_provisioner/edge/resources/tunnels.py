"""Joins and tunnels: what the egress is served besides, for sites that link with the embedded driver.

A private site's gateway dials one port and leaves its connections there: tunnels, through which the egress calls back.
Each site has a filter chain and a cluster of its own, so that one that comes or goes leaves the others' alone, and a
secret that says which certificates its gateway may show: renewing them changes that alone, and ends no call. TLS is
inside the tunnels, since that of the tunnel itself covers no more than how it is opened.
"""

from redoma_kit.policy import spiffe_id
from redoma_kit.routing import REPLICA_KEY
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.resources.clusters import BUFFER_BYTES, address_of, circuit_breakers, service_cluster
from redoma_provisioner.edge.resources.flush import flush_parts
from redoma_provisioner.edge.resources.joining import joining_chain
from redoma_provisioner.edge.resources.names import (
    NODE_HEADER,
    replica_listener,
    replica_pipe,
    tunnel_cluster,
)
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.refusals import NO_TUNNEL, not_sent_replies
from redoma_provisioner.edge.resources.stream_manager import keepalive, overwritten, stream_manager, windows
from redoma_provisioner.edge.resources.tls import (
    BY_DISCOVERY,
    IDENTITY,
    TLS_1_3,
    type_url,
)
from redoma_provisioner.edge.snapshot import Config
from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.network.driver import AdmittedSite
from redoma_provisioner.settings import EgressSettings, ProxySettings

TUNNELS = "tunnels"
PROVISIONER = "provisioner"
# No certificate has this digest: a site whose certificates all have expired opens no tunnel.
NO_CERTIFICATE = "0" * 64
PING_S = 1
HANDSHAKE_TIMEOUT_S = 2
# A tunnel whose link was cut without a word costs a call this long.
INNER_HANDSHAKE_TIMEOUT_S = 0.5
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def tunnel_server_name(site: str) -> str:
    """Names what a site's gateway asks for when it opens a tunnel."""
    return f"{site}.site.redoma"


def tunnel_parts(
    settings: EgressSettings,
    provisioner: UpstreamSettings,
    files: ProxySettings,
    authorities: str,
    state: EgressState,
) -> Parts:
    """Gives the listener for joins and tunnels, a listener for each service behind them, and their clusters."""
    behind = [one for one in (*state.replicas, *state.provisioners) if not one.address]
    admitted = {site.id: site for site in state.tunnels}
    # A service whose site may open no tunnel leads to none, rather than nowhere.
    sites = sorted(admitted.keys() | {one.site for one in behind})
    own = Parts(
        secrets=tuple(_peer(admitted.get(site, AdmittedSite(site)), authorities) for site in sites),
        clusters=(service_cluster(PROVISIONER, provisioner), *(_cluster(site) for site in sites)),
        listeners=(_tunnels_listener(settings, files, sorted(admitted)), *(_replica_listener(one) for one in behind)),
    )
    return own + flush_parts()


def _tunnels_listener(settings: EgressSettings, files: ProxySettings, sites: list[str]) -> Config:
    return {
        "name": TUNNELS,
        "address": address_of(settings.tunnels),
        "listener_filters": [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": type_url("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector")},
            }
        ],
        "listener_filters_timeout": f"{HANDSHAKE_TIMEOUT_S}s",
        "filter_chains": [joining_chain(files.ca_file, PROVISIONER), *(_site_chain(site) for site in sites)],
    }


def _site_chain(site: str) -> Config:
    return {
        "name": site,
        "filter_chain_match": {"server_names": [tunnel_server_name(site)]},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "require_client_certificate": True,
                # A resumed session is not verified again, so that a retired certificate would pass.
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": _pinned(site),
            },
        },
        "transport_socket_connect_timeout": f"{HANDSHAKE_TIMEOUT_S}s",
        "filters": [
            {
                "name": "envoy.filters.network.reverse_tunnel",
                "typed_config": {
                    "@type": type_url("envoy.extensions.filters.network.reverse_tunnel.v3.ReverseTunnel"),
                    "ping_interval": f"{PING_S}s",
                    # Whoever has one site's certificate can't offer tunnels for another.
                    "validation": {"node_id_format": site, "cluster_id_format": site},
                },
            }
        ],
    }


def _replica_listener(endpoint: Endpoint) -> Config:
    """Gives the listener, on a Unix socket of the egress itself, that leads to one service through its site's tunnels.

    It is a socket, as the health of what is behind a listener inside Envoy can't be checked.
    """
    name = replica_listener(endpoint.routing_key)
    host = {
        "name": name,
        "domains": ["*"],
        "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": tunnel_cluster(endpoint.site), "timeout": "0s"}},
        ],
        "request_headers_to_add": [
            overwritten(NODE_HEADER, endpoint.site),
            overwritten(REPLICA_KEY, endpoint.routing_key),
        ],
    }
    manager = stream_manager(
        "replicas",
        {"route_config": {"name": name, "virtual_hosts": [host]}},
        replies=not_sent_replies(NO_TUNNEL),
    )
    return {
        "name": name,
        "address": {"pipe": {"path": replica_pipe(endpoint.routing_key), "mode": 0o600}},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        # Each worker has tunnels of its own.
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [manager]}],
    }


def _cluster(site: str) -> Config:
    return {
        "name": tunnel_cluster(site),
        # The handshake inside a tunnel.
        "connect_timeout": f"{INNER_HANDSHAKE_TIMEOUT_S}s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.reverse_connection",
            "typed_config": {
                "@type": type_url("envoy.extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig"),
                "host_id_format": site,
                "cleanup_interval": "60s",
            },
        },
        "circuit_breakers": circuit_breakers(max_retries=0),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
                "sni": tunnel_server_name(site),
                "max_session_keys": 0,
                "common_tls_context": {**_pinned(site), "alpn_protocols": ["h2"]},
            },
        },
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": type_url(_OPTIONS),
                "explicit_http_config": {"http2_protocol_options": {**windows(), **keepalive()}},
            }
        },
    }


def _pinned(site: str) -> Config:
    return {
        "tls_params": TLS_1_3,
        "tls_certificate_sds_secret_configs": [{"name": IDENTITY, "sds_config": BY_DISCOVERY}],
        "validation_context_sds_secret_config": {"name": _peer_name(site), "sds_config": BY_DISCOVERY},
    }


def _peer(site: AdmittedSite, authorities: str) -> Config:
    """Says who a site's gateway is: its name, and the digests of the certificates that it may show."""
    return {
        "name": _peer_name(site.id),
        "validation_context": {
            # Not by file: Envoy would watch one for each site, of which a system has no more than about a hundred.
            "trusted_ca": {"inline_string": authorities},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe_id(site.id, "gateway")}}],
            "verify_certificate_hash": sorted(site.certificates) or [NO_CERTIFICATE],
        },
    }


def _peer_name(site: str) -> str:
    return f"gateway of {site}"
