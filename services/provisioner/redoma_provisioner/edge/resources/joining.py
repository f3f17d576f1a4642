"""What the egress offers to a site that has no certificate yet: the authority's certificate, and one method."""

from pathlib import Path

from redoma_kit.policy import spiffe_id
from redoma_provisioner.edge.resources.access_log import access_log
from redoma_provisioner.edge.resources.stream_manager import overwritten, router
from redoma_provisioner.edge.resources.tls import BY_DISCOVERY, IDENTITY, TLS_1_3, type_url
from redoma_provisioner.edge.snapshot import Config

JOINING = "joining"
SERVER_NAME = "egress.public.redoma"
AUTHORITY_PATH = "/authority.pem"
REDEEM_METHOD = "/redoma.provisioner.v1.NetworkService/RedeemLinkGrant"
MAX_CONNECTIONS = 256
MAX_STREAMS = 4
MAX_REQUEST_BYTES = 256 << 10
MAX_AUTHORITY_BYTES = 64 << 10
REQUEST_TIMEOUT_S = 30
# Longer than the provisioner takes at most, whose own words on it are then told.
REDEEM_TIMEOUT_S = 290
LONGEST_CONNECTION_S = 320
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def joining_chain(authorities: Path, provisioner: str) -> Config:
    """Gives the filter chain for joins; `authorities` is the file it gives out, `provisioner` the cluster it asks."""
    return {
        "name": JOINING,
        "filter_chain_match": {"server_names": [SERVER_NAME]},
        "transport_socket": _server_tls(),
        "transport_socket_connect_timeout": "5s",
        "filters": [
            {
                "name": "envoy.filters.network.connection_limit",
                "typed_config": {
                    "@type": type_url("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"),
                    "stat_prefix": JOINING,
                    "max_connections": MAX_CONNECTIONS,
                },
            },
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(authorities, provisioner),
            },
        ],
    }


def _server_tls() -> Config:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": TLS_1_3,
                "tls_certificate_sds_secret_configs": [{"name": IDENTITY, "sds_config": BY_DISCOVERY}],
            },
        },
    }


def _connection_manager(authorities: Path, provisioner: str) -> Config:
    return {
        "@type": type_url(_MANAGER),
        "stat_prefix": JOINING,
        "codec_type": "AUTO",
        # The provisioner slows those who guess codes by the address that this adds.
        "use_remote_address": True,
        "forward_client_cert_details": "SANITIZE",
        "generate_request_id": False,
        "max_request_headers_kb": 16,
        "request_headers_timeout": "5s",
        "request_timeout": f"{REQUEST_TIMEOUT_S}s",
        "stream_idle_timeout": f"{REQUEST_TIMEOUT_S}s",
        "common_http_protocol_options": {
            "idle_timeout": "10s",
            "max_connection_duration": f"{LONGEST_CONNECTION_S}s",
            "max_headers_count": 50,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": 64 << 10,
            "initial_connection_window_size": MAX_REQUEST_BYTES,
        },
        "access_log": [access_log("%PATH(NQ)%")],
        "http_filters": [
            {
                "name": "envoy.filters.http.buffer",
                "typed_config": {
                    "@type": type_url("envoy.extensions.filters.http.buffer.v3.Buffer"),
                    "max_request_bytes": MAX_REQUEST_BYTES,
                },
            },
            router(),
        ],
        "route_config": {
            "name": JOINING,
            "max_direct_response_body_size_bytes": MAX_AUTHORITY_BYTES,
            "virtual_hosts": [{"name": JOINING, "domains": ["*"], "routes": _routes(authorities, provisioner)}],
        },
    }


def _routes(authorities: Path, provisioner: str) -> list[Config]:
    def verb(name: str) -> list[Config]:
        return [{"name": ":method", "string_match": {"exact": name}}]

    return [
        {
            "match": {"path": AUTHORITY_PATH, "headers": verb("GET")},
            "direct_response": {"status": 200, "body": {"filename": str(authorities)}},
        },
        {
            "match": {"path": REDEEM_METHOD, "headers": verb("POST")},
            "route": {
                "cluster": provisioner,
                "timeout": f"{REDEEM_TIMEOUT_S}s",
                "idle_timeout": f"{REDEEM_TIMEOUT_S}s",
            },
            # Where the provisioner believes the egress of whom others are, it must say that this is nobody else.
            "request_headers_to_add": [overwritten("x-forwarded-client-cert", f"URI={spiffe_id('public', 'egress')}")],
        },
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
    ]
