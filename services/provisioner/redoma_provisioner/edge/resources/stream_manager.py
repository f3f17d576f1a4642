"""The HTTP connection manager of hops between the sites: HTTP/2, streams without a limit of time, large windows.

A connection's window is as large as the windows of all the streams it may carry, so that callers who do not read their
streams never hold up the others that share a tunnel with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from redoma_provisioner.edge.resources.tls import type_url
from redoma_provisioner.edge.snapshot import Config

MAX_STREAMS = 1024
STREAM_WINDOW_BYTES = 64 << 10
CONNECTION_WINDOW_BYTES = MAX_STREAMS * STREAM_WINDOW_BYTES
# A peer that is frozen, or behind a cut link, is noticed in twice this.
KEEPALIVE_S = 1
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def windows() -> Config:
    """Gives the options of HTTP/2 that bound what waits for a reader."""
    return {
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    }


def keepalive() -> Config:
    """Gives the option of HTTP/2 that has a connection pinged."""
    return {"connection_keepalive": {"interval": f"{KEEPALIVE_S}s", "timeout": f"{KEEPALIVE_S}s"}}


def stream_manager(
    name: str, routes: Mapping[str, Any], http_filters: Sequence[Config] = (), replies: Sequence[Config] = ()
) -> Config:
    """Gives the filter of a listener that only other Envoys of Redoma's reach; it passes on what they say of callers.

    Args:
        name: What its statistics are called.
        routes: `route_config` or `rds`.
        http_filters: What comes before the router.
        replies: What its own answers are changed by.
    """
    config: Config = {
        "@type": type_url(_MANAGER),
        "stat_prefix": name,
        "codec_type": "HTTP2",
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "0s"},
        "http2_protocol_options": {"max_concurrent_streams": MAX_STREAMS, **windows(), **keepalive()},
        "http_filters": [*http_filters, router()],
        **routes,
    }
    if replies:
        config["local_reply_config"] = {"mappers": list(replies)}
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def router() -> Config:
    """Gives the filter that sends a call on."""
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.http.router.v3.Router"),
            "suppress_envoy_headers": True,
        },
    }


def reply(flags: Sequence[str], words: str, headers: Mapping[str, str]) -> Config:
    """Gives an Envoy's own answer to calls that failed with one of these flags its words, and headers that name it."""
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}},
        "body_format_override": {"text_format_source": {"inline_string": words}},
        "headers_to_add": [overwritten(name, value) for name, value in headers.items()],
    }


def overwritten(name: str, value: str) -> Config:
    """Gives a header that takes the place of any of its name."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
