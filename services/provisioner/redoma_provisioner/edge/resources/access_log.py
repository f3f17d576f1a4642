"""The line that an Envoy logs of each call."""

from redoma_provisioner.edge.resources.tls import type_url
from redoma_provisioner.edge.snapshot import Config

HEALTH = "/grpc.health.v1.Health/"


def access_log(path: str, **more: str) -> Config:
    """Gives an access log on standard output; `path` says how a path is shown, `more` are further fields.

    No query, no header but the request id: neither may hold content or a credential.
    """
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": _worth_a_line(),
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "protocol": "%PROTOCOL%",
                    "verb": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
                    "path": path,
                    "status": "%RESPONSE_CODE%",
                    "grpc_status": "%GRPC_STATUS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "bytes_received": "%BYTES_RECEIVED%",
                    "bytes_sent": "%BYTES_SENT%",
                    "duration_ms": "%DURATION%",
                    "cluster": "%UPSTREAM_CLUSTER%",
                    **more,
                }
            },
        },
    }


def _worth_a_line() -> Config:
    """Leaves out health checks that pass, of which there are some each second."""
    other_call = {"header": {"name": ":path", "string_match": {"prefix": HEALTH}, "invert_match": True}}
    failed = {"statuses": ["OK"], "exclude": True}
    either = {"or_filter": {"filters": [{"header_filter": other_call}, {"grpc_status_filter": failed}]}}
    return {"and_filter": {"filters": [{"not_health_check_filter": {}}, either]}}
