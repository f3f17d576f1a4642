"""How a refused request is answered at the edge: in gRPC's words to gRPC clients, in OpenAI's JSON to REST clients."""

import base64
import json
import math

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.rpc import status_pb2

from redoma_kit.errors import STATUS_DETAILS_KEY, Failure

# Of every code that a rule of ours has, as Envoy's transcoder has them. Envoy turns these into a gRPC status for gRPC
# clients, not always into the one meant, which is therefore sent as a header too.
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
STATUS = "grpc-status"
OPENAI_TYPES = {
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
OPENAI_CODES = {"CREDENTIAL_INVALID": "invalid_api_key"}


def header(key: str, value: str) -> HeaderValueOption:
    """Gives a header that replaces one of the same name."""
    return HeaderValueOption(
        header=HeaderValue(key=key, value=value), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )


def refusal(failure: Failure, *, is_grpc: bool) -> CheckResponse:
    """Gives the answer that makes Envoy refuse with `failure`."""
    http_status, code = HTTP_STATUS[failure.code], failure.code.value[0]
    if is_grpc:
        details = base64.b64encode(failure.status().SerializeToString()).rstrip(b"=").decode()
        headers, body = [header(STATUS_DETAILS_KEY, details), header(STATUS, str(code))], failure.message
    else:
        headers, body = _rest_headers(failure, http_status), _openai_body(failure, http_status)
    return CheckResponse(
        status=status_pb2.Status(code=code),
        denied_response=DeniedHttpResponse(
            status=HttpStatus(code=http_status),  # type: ignore[arg-type]
            headers=headers,
            body=body,
        ),
    )


def _rest_headers(failure: Failure, http_status: int) -> list[HeaderValueOption]:
    headers = [header("content-type", "application/json")]
    if http_status == 401:
        headers.append(header("www-authenticate", "Bearer"))
    if failure.retry_after_s is not None:
        headers.append(header("retry-after", str(math.ceil(failure.retry_after_s))))
    return headers


def _openai_body(failure: Failure, http_status: int) -> str:
    error = {
        "message": failure.message,
        "type": OPENAI_TYPES.get(http_status, "invalid_request_error"),
        "param": None,
        "code": OPENAI_CODES.get(failure.reason, failure.reason.lower()),
    }
    return json.dumps({"error": error})
