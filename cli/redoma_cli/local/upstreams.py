"""The services behind the edge, as Envoy clusters: mutual TLS 1.3, checked health, bounded queues."""

from typing import Any

from redoma_cli.local.api import CHAT, MODEL, TENANT
from redoma_cli.local.pki import PUBLIC_SITE, IdentityFiles, server_name
from redoma_cli.local.ports import LOOPBACK
from redoma_kit.policy import spiffe_id

Config = dict[str, Any]

# Whether the model can answer, as the chat service finds it.
ANSWERING = "answering"
MODEL_HEALTH_SERVICE = "redoma.model.v1.ModelService"
ENGINE_HEALTH_SERVICE = "redoma.model.v1.EngineService"
BUFFER_BYTES = 1 << 20
MAX_REQUESTS = 4096


def clusters(chat_port: int, tenant_port: int, model_port: int, identity: IdentityFiles) -> list[Config]:
    """Gives the clusters, on loopback: chat, tenant, model for operators, and whether the model answers.

    `identity` is the edge's own.
    """
    return [
        _cluster(CHAT, CHAT, chat_port, identity, ""),
        _cluster(TENANT, TENANT, tenant_port, identity, ""),
        _cluster(MODEL, MODEL, model_port, identity, ENGINE_HEALTH_SERVICE),
        # Carries no traffic: the chat service reports the model's health as its own service of this name.
        _cluster(ANSWERING, CHAT, chat_port, identity, MODEL_HEALTH_SERVICE),
    ]


def _cluster(name: str, service: str, port: int, identity: IdentityFiles, health_service: str) -> Config:
    thresholds = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": MAX_REQUESTS, "max_retries": 0}
    address = {"socket_address": {"address": LOOPBACK, "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "circuit_breakers": {"thresholds": [thresholds]},
        # With one endpoint, routing to an unhealthy one in a panic would only make callers wait.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_interval": "0.25s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": health_service} if health_service else {},
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_url("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "initial_stream_window_size": 256 << 10,
                        "initial_connection_window_size": BUFFER_BYTES,
                        "connection_keepalive": {"interval": "2s", "timeout": "2s"},
                    }
                },
            }
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": _upstream_tls(service, identity),
        },
    }


def _upstream_tls(service: str, identity: IdentityFiles) -> Config:
    site = "private" if service == MODEL else PUBLIC_SITE
    name = {"san_type": "URI", "matcher": {"exact": spiffe_id(site, service)}}
    return {
        "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": server_name(service, site),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(identity.certificate)},
                    "private_key": {"filename": str(identity.key)},
                }
            ],
            "validation_context": {
                "trusted_ca": {"filename": str(identity.ca)},
                "match_typed_subject_alt_names": [name],
            },
        },
    }


def type_url(name: str) -> str:
    """Names the type of an extension's configuration."""
    return f"type.googleapis.com/{name}"
