"""What the edge, the internet-facing Envoy, is served."""

import json

from redoma_provisioner.edge.resources.access_log import access_log
from redoma_provisioner.edge.resources.api import CHAT, EGRESS, PROVISIONER, TENANT
from redoma_provisioner.edge.resources.clusters import BUFFER_BYTES, address_of, service_cluster
from redoma_provisioner.edge.resources.edge_filters import ANSWERING, http_filters
from redoma_provisioner.edge.resources.edge_routes import ROUTE_TABLE, route_table
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.tls import BY_DISCOVERY, certificate_secret, identity_secrets, type_url
from redoma_provisioner.edge.snapshot import Config, Snapshot
from redoma_provisioner.settings import EdgeSettings, ProxySettings

# The service ends a stream at the limit with a status that says why; the edge cuts one that did not end a little later.
STREAM_MARGIN_S = 5
MAX_HEADERS = 100
MAX_HEADERS_KIB = 32
CERTIFICATE = "edge"
# What a client gets whose request is so malformed that no filter saw it. A refusal by a filter has none of these.
MALFORMED = {
    400: "The request is not well-formed HTTP. Percent-encode what is not ASCII in the URL.",
    408: "The request took too long to arrive.",
    426: "Speak HTTP/1.1 or HTTP/2.",
    431: f"The request headers are too large. The limits are {MAX_HEADERS_KIB} KiB and {MAX_HEADERS} headers.",
    501: "This transfer encoding is not supported.",
}


def edge_snapshot(settings: EdgeSettings, files: ProxySettings, max_stream_s: float) -> Snapshot:
    """Gives all that the edge is served.

    Args:
        settings: Where it listens, and what stands behind it.
        files: Its identity.
        max_stream_s: The longest a call may last, in seconds.

    Raises:
        InvalidAddress: An address in the settings is not one.
    """
    secrets = identity_secrets(files)
    if settings.tls is not None:
        secrets += (certificate_secret(CERTIFICATE, settings.tls / "tls.crt", settings.tls / "tls.key"),)
    return Parts(
        secrets=secrets,
        clusters=_clusters(settings),
        listeners=(_listener(settings, max_stream_s),),
        routes=(route_table(settings),),
    ).snapshot()


def _clusters(settings: EdgeSettings) -> tuple[Config, ...]:
    return (
        service_cluster(CHAT, settings.chat, ""),
        service_cluster(TENANT, settings.tenant, ""),
        service_cluster(PROVISIONER, settings.provisioner, ""),
        service_cluster(EGRESS, settings.egress),
        # Carries no traffic: the chat service reports the model's health as its own service of this name.
        service_cluster(ANSWERING, settings.chat, MODEL_HEALTH_SERVICE),
    )


def _listener(settings: EdgeSettings, max_stream_s: float) -> Config:
    chain: Config = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(max_stream_s),
            }
        ]
    }
    if settings.tls is not None:
        chain["transport_socket"] = _public_tls()
    return {
        "name": "edge",
        "address": address_of(settings.listen),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [chain],
    }


def _public_tls() -> Config:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": BY_DISCOVERY}],
            },
        },
    }


def _connection_manager(max_stream_s: float) -> Config:
    longest_s = max_stream_s + STREAM_MARGIN_S
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
        # The path as edge.lua cleans it; null where a request was refused before that.
        "access_log": [access_log("%DYNAMIC_METADATA(redoma:path)%")],
        "local_reply_config": {"mappers": [_malformed(status, message) for status, message in MALFORMED.items()]},
        "http_filters": http_filters(),
        "rds": {"route_config_name": ROUTE_TABLE, "config_source": BY_DISCOVERY},
    }


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


def _seconds(value: float) -> str:
    return f"{value:.3f}s"
