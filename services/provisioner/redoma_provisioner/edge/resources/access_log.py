"""The line that an Envoy logs of each call."""

from redoma_provisioner.edge.resources.tls import type_url
from redoma_provisioner.edge.snapshot import Config


def access_log(path: str, **more: str) -> Config:
    """Gives an access log on standard output; `path` says how a path is shown, `more` are further fields.

    No query, no header but the request id: neither may hold content or a credential.
    """
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
