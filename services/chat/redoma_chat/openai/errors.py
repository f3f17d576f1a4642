"""Failures in OpenAI's shape, for bodies and events, and for the trailer from which the edge makes the body."""

import math
from urllib.parse import quote

import grpc

from redoma_chat.openai.response import to_json
from redoma_kit.errors import Failure
from redoma_kit.interceptors.pipeline import Call

TRAILER = "redoma-openai-error"
# The edge gives this one to REST callers as the header of the same name.
RETRY_AFTER = "retry-after"
METHODS = "/redoma.chat.v1.OpenAIService/"
MAX_TRAILER_BYTES = 3_000
# What stays readable in the trailer; everything else is percent-encoded.
SAFE = ' {}":,[]'
_CODES = {
    "PROMPT_TOO_LONG": "context_length_exceeded",
    "CREDENTIAL_INVALID": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
}
_TYPES = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request_error",
    grpc.StatusCode.NOT_FOUND: "invalid_request_error",
    grpc.StatusCode.FAILED_PRECONDITION: "invalid_request_error",
    grpc.StatusCode.UNAUTHENTICATED: "authentication_error",
    grpc.StatusCode.PERMISSION_DENIED: "permission_error",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limit_error",
}
# The model service names fields as its own API does; here they are members of the body.
MODEL_PREFIX = "sampling."
_PARAMS = {"PROMPT_TOO_LONG": "messages", "INPUT_REFUSED": "messages", "MODEL_NOT_FOUND": "model"}


def error_object(failure: Failure) -> dict[str, dict[str, str | None]]:
    """Gives the body of a failed call."""
    return _object(failure, failure.message)


def _object(failure: Failure, message: str) -> dict[str, dict[str, str | None]]:
    field = failure.metadata.get("field")
    return {
        "error": {
            "message": message.removeprefix(MODEL_PREFIX),
            "type": _TYPES.get(failure.code, "server_error"),
            "param": _PARAMS.get(failure.reason) or (None if field is None else field.removeprefix(MODEL_PREFIX)),
            "code": _CODES.get(failure.reason, failure.reason.lower()),
        }
    }


def error_event(failure: Failure) -> bytes:
    """Gives the server-sent event that ends a stream that failed."""
    return f"data: {to_json(error_object(failure))}\n\n".encode()


def openai_error_trailer(call: Call, failure: Failure) -> tuple[tuple[str, str | bytes], ...]:
    """Gives the trailing metadata of a failed call of the façade; nothing for other calls."""
    if not call.method.startswith(METHODS):
        return ()
    message = failure.message
    while len(value := quote(to_json(_object(failure, message)), safe=SAFE)) > MAX_TRAILER_BYTES and message:
        message = message[: len(message) // 2]
    if failure.retry_after_s is None:
        return ((TRAILER, value),)
    return (TRAILER, value), (RETRY_AFTER, str(math.ceil(failure.retry_after_s)))
