"""Failures in OpenAI's shape, for bodies and events, and for the trailer from which the edge makes the body."""

import math
from collections.abc import Iterator
from urllib.parse import quote

import grpc

from redoma_chat.inference import RateLimit, RateLimits
from redoma_chat.openai.response import to_json
from redoma_chat.openai.response_format import body_path
from redoma_chat.rate_limit_headers import rate_limit_headers
from redoma_kit.errors import Failure
from redoma_kit.interceptors.pipeline import Call

TRAILER = "redoma-openai-error"
# The edge gives this one to REST callers as the header of the same name.
RETRY_AFTER = "retry-after"
METHODS = "/redoma.chat.v1.OpenAIService/"
MAX_TRAILER_BYTES = 3_000
# A path in a schema holds names that the caller chose.
MAX_PARAM_CHARACTERS = 200
# What stays readable in the trailer; everything else is percent-encoded.
SAFE = ' {}":,[]'
_CODES = {
    "PROMPT_TOO_LONG": "context_length_exceeded",
    "CREDENTIAL_INVALID": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
    "CREDENTIAL_REVOKED": "invalid_api_key",
    "CREDENTIAL_EXPIRED": "invalid_api_key",
}
# OpenAI's clients tell apart what passes soon from what is used up.
USED_UP = "insufficient_quota"
TOO_FAST = "rate_limit_exceeded"
QUOTA = "QUOTA_EXCEEDED"
MINUTE_LIMITS = {"requests_per_minute": "requests", "tokens_per_minute": "tokens"}
_BY_THE_MINUTE = {**MINUTE_LIMITS, "concurrent_streams": "requests"}
# What the headers of a refusal are about.
_IN_HEADERS = {**MINUTE_LIMITS, "tokens_per_day": "tokens", "tokens_per_month": "tokens"}
# Tells OpenAI's clients not to try again by themselves.
SHOULD_RETRY = "x-should-retry"
_TYPES = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request_error",
    grpc.StatusCode.NOT_FOUND: "invalid_request_error",
    grpc.StatusCode.FAILED_PRECONDITION: "invalid_request_error",
    grpc.StatusCode.UNAUTHENTICATED: "authentication_error",
    grpc.StatusCode.PERMISSION_DENIED: "permission_error",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limit_error",
    grpc.StatusCode.ABORTED: "conflict_error",
}
# The model service names fields as its own API does; here they are members of the body.
MODEL_PREFIX = "sampling."
_PROMPTS = {METHODS + "Ask": "prompt", METHODS + "CreateEmbedding": "input"}


def error_object(failure: Failure) -> dict[str, dict[str, str | None]]:
    """Gives the body of a failed chat completion."""
    return _object(failure, failure.message, METHODS + "CreateChatCompletion")


def _object(failure: Failure, message: str, method: str) -> dict[str, dict[str, str | None]]:
    return {
        "error": {
            "message": _in_body(message),
            "type": _type(failure),
            "param": _param(failure, method),
            "code": _code(failure),
        }
    }


def _type(failure: Failure) -> str:
    if failure.reason == QUOTA:
        return _BY_THE_MINUTE.get(failure.metadata.get("limit", ""), USED_UP)
    return _TYPES.get(failure.code, "server_error")


def _code(failure: Failure) -> str:
    if failure.reason == QUOTA:
        return TOO_FAST if failure.metadata.get("limit") in _BY_THE_MINUTE else USED_UP
    return _CODES.get(failure.reason, failure.reason.lower())


def _encoded(error: dict[str, dict[str, str | None]]) -> str:
    return quote(to_json(error), safe=SAFE)


def _param(failure: Failure, method: str) -> str | None:
    prompt = _PROMPTS.get(method, "messages")
    field = failure.metadata.get("field")
    if failure.reason == "MODEL_NOT_FOUND":
        return "model"
    if failure.reason in ("PROMPT_TOO_LONG", "INPUT_REFUSED"):
        return field if field is not None and field.startswith(prompt) else prompt
    return None if field is None else _in_body(field)[:MAX_PARAM_CHARACTERS]


def _in_body(text: str) -> str:
    """Puts the path in the body in place of the model service's at the head of a text."""
    return body_path(text.removeprefix(MODEL_PREFIX)) if text.startswith(MODEL_PREFIX) else text


def error_event(failure: Failure) -> bytes:
    """Gives the server-sent event that ends a stream that failed."""
    return f"data: {to_json(error_object(failure))}\n\n".encode()


def openai_error_trailer(call: Call, failure: Failure) -> tuple[tuple[str, str | bytes], ...]:
    """Gives the trailing metadata of a failed call of the façade; nothing for other calls."""
    if not call.method.startswith(METHODS):
        return ()
    message = failure.message
    while len(value := _encoded(_object(failure, message, call.method))) > MAX_TRAILER_BYTES and message:
        message = message[: len(message) // 2]
    return ((TRAILER, value), *_when_to_retry(failure), *_limit_headers(failure))


def _when_to_retry(failure: Failure) -> Iterator[tuple[str, str]]:
    if failure.retry_after_s is not None:
        yield RETRY_AFTER, str(math.ceil(failure.retry_after_s))
    if failure.reason == QUOTA and failure.metadata.get("limit") not in _BY_THE_MINUTE:
        yield SHOULD_RETRY, "false"


def _limit_headers(failure: Failure) -> tuple[tuple[str, str], ...]:
    """Gives the headers that say how the limit of requests or tokens stands by which a call was refused."""
    limit = failure.metadata.get("limit", "")
    values = [failure.metadata.get(name, "") for name in ("limit_value", "remaining")]
    if failure.reason != QUOTA or limit not in _IN_HEADERS or not all(value.isdecimal() for value in values):
        return ()
    stands = RateLimit(int(values[0]), int(values[1]), failure.retry_after_s or 0.0)
    return rate_limit_headers(RateLimits(**{_IN_HEADERS[limit]: stands}))
