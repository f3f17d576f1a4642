"""A way to close the tunnels of a site that nothing uses now.

A tunnel that waits for calls belongs to no listener any more, so that nothing in Envoy closes it when its site is
revoked or its certificate retired. A call that is made here with the site's id takes one such tunnel of the worker it
comes to, and fails in a handshake that nobody can pass, which closes it.

The calls come in through the egress's listener for services, from the provisioner alone; each goes through a connection
of its own to a listener that shares connections out evenly, and holds it for a moment: so as many calls at once as
there are workers, or more, meet every worker, and close one tunnel of each at least.
"""

from redoma_kit.policy import spiffe_id
from redoma_provisioner.edge.resources.clusters import circuit_breakers
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.refusals import NOT_SENT_FLAGS
from redoma_provisioner.edge.resources.stream_manager import reply, stream_manager
from redoma_provisioner.edge.resources.tls import type_url, upstream_tls
from redoma_provisioner.edge.snapshot import Config

FLUSH_METHOD = "/redoma.egress/Flush"
FLUSH_SITE_HEADER = "redoma-flush-site"
# On the answer to every call that came that far: it closed a tunnel, or there was none.
FLUSHED_HEADER = "redoma-flushed"
FLUSH, FLUSH_CALLS = "flush", "flush-calls"
_PIPE = "flush.sock"
_HOLD_S = 0.1
_CONNECT_TIMEOUT_S = 0.25
_CALLER = spiffe_id("public", "provisioner")
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def flush_parts() -> Parts:
    """Gives the listener and the clusters for it."""
    return Parts(clusters=(_calls(), _tunnels()), listeners=(_listener(),))


def flush_routes() -> list[Config]:
    """Gives the routes to it, for the listener for services."""
    # Written by the egress itself, from the caller's certificate.
    is_caller = {"name": "x-forwarded-client-cert", "string_match": {"suffix": f";URI={_CALLER}"}}
    return [
        {
            "match": {"path": FLUSH_METHOD, "headers": [is_caller]},
            "route": {"cluster": FLUSH_CALLS, "timeout": "2s"},
        },
        {"match": {"path": FLUSH_METHOD}, "direct_response": {"status": 403}},
    ]


def _listener() -> Config:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": FLUSH, "timeout": "1s"}}]
    hold = {
        "name": "envoy.filters.http.fault",
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.http.fault.v3.HTTPFault"),
            "delay": {"fixed_delay": f"{_HOLD_S}s", "percentage": {"numerator": 100}},
        },
    }
    # No calls get through: the handshake failed, or was not answered in time, or there is no tunnel.
    replies = (reply(NOT_SENT_FLAGS, "flushed", {FLUSHED_HEADER: "1"}),)
    manager = stream_manager(
        FLUSH,
        {"route_config": {"name": FLUSH, "virtual_hosts": [{"name": FLUSH, "domains": ["*"], "routes": routes}]}},
        (hold,),
        replies,
    )
    return {
        "name": FLUSH,
        "address": {"pipe": {"path": _PIPE, "mode": 0o600}},
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [manager]}],
    }


def _calls() -> Config:
    return {
        "name": FLUSH_CALLS,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": FLUSH_CALLS,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": _PIPE}}}}]}],
        },
        "circuit_breakers": circuit_breakers(max_retries=0),
        "typed_extension_protocol_options": _one_call_a_connection(),
    }


def _tunnels() -> Config:
    return {
        "name": FLUSH,
        "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.reverse_connection",
            "typed_config": {
                "@type": type_url("envoy.extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig"),
                "host_id_format": f"%REQ({FLUSH_SITE_HEADER})%",
                "cleanup_interval": "1s",
            },
        },
        "circuit_breakers": circuit_breakers(max_retries=0),
        # No authority signs that name.
        "transport_socket": upstream_tls("none", "none"),
        "typed_extension_protocol_options": _one_call_a_connection(),
    }


def _one_call_a_connection() -> Config:
    return {
        _OPTIONS: {
            "@type": type_url(_OPTIONS),
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1}},
        }
    }
