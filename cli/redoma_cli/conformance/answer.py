"""How a call ended, in one form for gRPC, grpc-web and REST, so that answers can be compared."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from redoma_cli.conformance.http_client import HttpAnswer

OK = "OK"
# HTTP's names for what gRPC says.
CODES_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
DETAILS_KEY = "grpc-status-details-bin"
OPENAI_REASONS = {
    "INVALID_API_KEY": "CREDENTIAL_INVALID",
    "CONTEXT_LENGTH_EXCEEDED": "PROMPT_TOO_LONG",
    "INSUFFICIENT_QUOTA": "QUOTA_EXCEEDED",
    "RATE_LIMIT_EXCEEDED": "QUOTA_EXCEEDED",
}
SLOWED = "SIGN_IN_SLOWED"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        code: The gRPC status by name, such as PERMISSION_DENIED; OK when it succeeded.
        reason: The ErrorReason; empty without one.
        message: What it says to people.
        bodies: The messages that came, as bytes.
        headers: Headers and trailers.
        details: Types of the status's details, such as google.rpc.QuotaFailure.
        metadata: Of its ErrorInfo.
        retry_after_s: When to try again; None if it does not say.
        http_status: Status of HTTP; 0 over gRPC.
    """

    code: str
    reason: str = ""
    message: str = ""
    bodies: tuple[bytes, ...] = ()
    headers: tuple[tuple[str, str | bytes], ...] = ()
    details: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    http_status: int = 0

    @property
    def everything(self) -> bytes:
        """All that came, to look for what must not be there."""
        headers = (name.encode() + b": " + _as_bytes(value) for name, value in self.headers)
        return b"\n".join((self.message.encode(), *headers, *self.bodies))

    @property
    def label(self) -> str:
        """Its code and reason for people, such as "PERMISSION_DENIED (TENANT_MISMATCH)"."""
        code = f"HTTP {self.http_status}" if self.http_status else self.code
        return f"{code} ({self.reason})" if self.reason else code

    def holds(self, words: Iterable[str]) -> str:
        """Gives the first of the words that occurs in what came; empty if none does."""
        everything = self.everything
        return next((word for word in words if word.encode() in everything), "")


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def grpc_answer(code: str, message: str, bodies: Sequence[bytes], headers: Sequence[tuple[str, str | bytes]]) -> Answer:
    """Reads a gRPC call's end; `headers` are initial and trailing metadata."""
    reason, metadata, types, retry_after_s = "", {}, [], None
    for detail in _details(headers):
        types.append(detail.TypeName())
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Answer(
        code, reason, message, tuple(bodies), tuple(headers), tuple(types), tuple(metadata.items()), retry_after_s
    )


def _details(headers: Sequence[tuple[str, str | bytes]]) -> list:  # type: ignore[type-arg]
    value = next((value for key, value in headers if key == DETAILS_KEY), b"")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_" if "-" in value else None)
        except ValueError:
            return []
    try:
        return list(status_pb2.Status.FromString(value).details)
    except DecodeError:
        return []


def error_answer(error: grpc.aio.AioRpcError, bodies: Sequence[bytes]) -> Answer:
    """Reads a failed gRPC call."""
    headers = [*error.initial_metadata(), *error.trailing_metadata()]
    return grpc_answer(error.code().name, error.details() or "", bodies, headers)


def http_answer(answer: HttpAnswer) -> Answer:
    """Reads a REST response; an error in OpenAI's shape gives the reason."""
    code = OK if answer.status < 400 else CODES_OF_HTTP.get(answer.status, f"HTTP_{answer.status}")
    reason, message = openai_error(answer.body) if answer.status >= 400 else ("", "")
    after = answer.header("retry-after")
    return Answer(
        code,
        reason,
        message,
        (answer.body,),
        answer.headers,
        retry_after_s=float(after) if after.replace(".", "", 1).isdigit() else None,
        http_status=answer.status,
    )


def openai_error(body: bytes) -> tuple[str, str]:
    """Gives reason and message of an error in OpenAI's shape; empty texts if it is none."""
    try:
        error = json.loads(body)["error"]
        reason = str(error.get("code") or "").upper()
        return OPENAI_REASONS.get(reason, reason), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
