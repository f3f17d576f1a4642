"""What the edge does to each request and answer between the listener and the service."""

import base64
import importlib.resources
from collections.abc import Mapping
from typing import Any

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import Failure, reason_name
from redoma_kit.identity import METADATA_KEY
from redoma_kit.routing import AFFINITY_KEY, TENANT_KEY
from redoma_provisioner.edge.resources.api import CHAT, TENANT, openai_service, transcoder_descriptors
from redoma_provisioner.edge.resources.tls import type_url
from redoma_provisioner.edge.snapshot import Config

MAX_REQUEST_BYTES = 4 << 20
# Whether the model can answer, as the chat service finds it.
ANSWERING = "answering"
# A tenant service that is down refuses at once, by its health; this bounds the wait for one that is busy.
AUTHORIZATION_TIMEOUT_S = 10
# What only the edge and the services behind it may say. The Lua filter stops them with all other unknown ones; this
# holds should it not.
INTERNAL_HEADERS = (
    METADATA_KEY,
    "redoma-openai-error",
    AFFINITY_KEY,
    TENANT_KEY,
    "x-node-id",
    "x-cluster-id",
    "x-tenant-id",
    "x-forwarded-client-cert",
    "x-client-cert",
    "x-ssl-client-cert",
)
# What the edge itself says to gRPC callers; to REST callers it says the same in OpenAI's shape.
TOO_LARGE = Failure(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    reason_name(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE),
    f"The request body is too large. The limit is {MAX_REQUEST_BYTES:,} bytes.",
    {"limit_bytes": str(MAX_REQUEST_BYTES)},
)
UNREACHABLE = Failure(
    grpc.StatusCode.UNAVAILABLE,
    reason_name(ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE),
    "The service is not available now. Try again in a moment.",
    {},
    retry_after_s=1.0,
)
_EXTENSIONS = "envoy.extensions.filters.http"


def http_filters() -> list[Config]:
    """Lists the HTTP filters in the order in which a request meets them; a response meets them the other way round."""
    return [
        _readiness(),
        _filter("cors", {"@type": type_url(f"{_EXTENSIONS}.cors.v3.Cors")}),
        _filter(
            "lua",
            {"@type": type_url(f"{_EXTENSIONS}.lua.v3.Lua"), "default_source_code": {"inline_string": _lua()}},
        ),
        _filter("grpc_web", {"@type": type_url(f"{_EXTENSIONS}.grpc_web.v3.GrpcWeb")}),
        _filter(
            "header_mutation",
            {
                "@type": type_url(f"{_EXTENSIONS}.header_mutation.v3.HeaderMutation"),
                "mutations": {"request_mutations": [{"remove": name} for name in INTERNAL_HEADERS]},
            },
        ),
        _authorization(),
        _filter(
            "buffer", {"@type": type_url(f"{_EXTENSIONS}.buffer.v3.Buffer"), "max_request_bytes": MAX_REQUEST_BYTES}
        ),
        _transcoder(),
        _filter("router", {"@type": type_url(f"{_EXTENSIONS}.router.v3.Router"), "suppress_envoy_headers": True}),
    ]


def _readiness() -> Config:
    return _filter(
        "health_check",
        {
            "@type": type_url(f"{_EXTENSIONS}.health_check.v3.HealthCheck"),
            "pass_through_mode": False,
            "headers": [{"name": ":path", "string_match": {"exact": "/readyz"}}],
            "cluster_min_healthy_percentages": {name: {"value": 100} for name in (CHAT, TENANT, ANSWERING)},
        },
    )


def _authorization() -> Config:
    return _filter(
        "ext_authz",
        {
            "@type": type_url(f"{_EXTENSIONS}.ext_authz.v3.ExtAuthz"),
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": TENANT},
                "timeout": f"{AUTHORIZATION_TIMEOUT_S:.3f}s",
            },
            "failure_mode_allow": False,
            "status_on_error": {"code": "ServiceUnavailable"},
        },
    )


def _transcoder() -> Config:
    return _filter(
        "grpc_json_transcoder",
        {
            "@type": type_url(f"{_EXTENSIONS}.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
            "proto_descriptor_bin": base64.b64encode(transcoder_descriptors()).decode(),
            "services": [openai_service().full_name],
            "match_incoming_request_route": True,
            "ignore_unknown_query_parameters": True,
            "convert_grpc_status": True,
            "print_options": {"preserve_proto_field_names": True},
            "max_request_body_size": MAX_REQUEST_BYTES,
            "max_response_body_size": 2 * MAX_REQUEST_BYTES,
        },
    )


def _lua() -> str:
    script = importlib.resources.files(__package__).joinpath("edge.lua").read_text()
    for name, failure in (("too_large", TOO_LARGE), ("unreachable", UNREACHABLE)):
        details = base64.b64encode(failure.status().SerializeToString(deterministic=True)).decode()
        script = script.replace(f"@{name}_message@", failure.message).replace(f"@{name}_details@", details)
    return script


def _filter(name: str, config: Mapping[str, Any]) -> Config:
    return {"name": f"envoy.filters.http.{name}", "typed_config": dict(config)}
