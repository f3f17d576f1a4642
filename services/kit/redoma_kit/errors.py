"""How a domain exception becomes a gRPC status with one ErrorInfo.

Domain code raises subclasses of DomainError. Each service has one table from exception class to ErrorRule; the error
interceptor looks the class up and aborts the call. Text of drivers and of defects goes to the log, never to the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from redoma.common.v1.error_reason_pb2 import ErrorReason

DOMAIN = "redoma"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# A status is sent in headers, of which peers take 8 KiB and in which a byte may need three.
MAX_MESSAGE_BYTES = 1_000
MAX_METADATA_BYTES = 500


@dataclass(frozen=True, slots=True)
class Violation:
    """A quota that is in the way.

    Attributes:
        subject: Whose it is, by resource name.
        description: Which, and what is left of it; one sentence for people.
    """

    subject: str
    description: str


class DomainError(Exception):
    """Something a caller can be told.

    Attributes:
        message: One sentence for people, with the mending step where there is one. Never content, never a credential.
        metadata: What ErrorInfo carries for programs, as error_reason.proto documents it for the reason.
        retry_after_s: When to try again, in seconds; overrides the rule's.
        violations: Every quota in the way, where quotas are.
    """

    def __init__(
        self,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)


class InvalidField(DomainError):
    """A field of the request is missing, malformed or out of range."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", {"field": field})


class ResourceNotFound(DomainError):
    """The resource does not exist, or the caller may not know that it does."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} does not exist.", {"resource": resource})


class ResourceExists(DomainError):
    """A resource of that name exists."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} exists already.", {"resource": resource})


class StorageUnavailable(DomainError):
    """The database does not answer."""

    def __init__(self) -> None:
        super().__init__("The store is not available right now; try again.")


class CredentialInvalid(DomainError):
    """There is no usable identity with the call."""


class ScopeMissing(DomainError):
    """The caller lacks a scope."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This call needs the scope {scope}, which the key does not have.", {"scope": scope})


class MethodDenied(DomainError):
    """The method is in no policy table, or this peer may not call it."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} may not be called here.", {"method": method})


class TenantMismatch(DomainError):
    """A resource name belongs to another tenant."""

    def __init__(self) -> None:
        super().__init__("The resource belongs to another tenant.")


class DeadlineExceeded(DomainError):
    """The call ran past its deadline."""

    def __init__(self) -> None:
        super().__init__("The call ran past its deadline.")


class ShuttingDown(DomainError):
    """The service takes no new calls."""

    def __init__(self) -> None:
        super().__init__("The service is shutting down; try again.")


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """The status an exception class maps to."""

    code: grpc.StatusCode
    reason: "ErrorReason.ValueType"
    retry_after_s: float | None = None


ErrorTable = Mapping[type[DomainError], ErrorRule]

KIT_ERRORS: ErrorTable = {
    InvalidField: ErrorRule(grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_FIELD),
    ResourceNotFound: ErrorRule(grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_RESOURCE_NOT_FOUND),
    ResourceExists: ErrorRule(grpc.StatusCode.ALREADY_EXISTS, ErrorReason.ERROR_REASON_RESOURCE_EXISTS),
    StorageUnavailable: ErrorRule(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_STORAGE_UNAVAILABLE, 1.0),
    CredentialInvalid: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_INVALID),
    ScopeMissing: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
    MethodDenied: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_METHOD_DENIED),
    TenantMismatch: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_TENANT_MISMATCH),
    DeadlineExceeded: ErrorRule(grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
    ShuttingDown: ErrorRule(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SHUTTING_DOWN, 1.0),
}


def reason_name(reason: "ErrorReason.ValueType") -> str:
    """Gives the name that ErrorInfo carries, without the enum's prefix."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as the caller sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str]
    retry_after_s: float | None = None
    violations: tuple[Violation, ...] = ()

    def status(self) -> status_pb2.Status:
        """Gives the google.rpc.Status with its ErrorInfo and, where quotas are in the way, QuotaFailure, and where a
        retry helps, RetryInfo."""
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=dict(self.metadata))
        ]
        if self.violations:
            failure = error_details_pb2.QuotaFailure()
            for one in self.violations:
                failure.violations.add(subject=one.subject, description=one.description)
            details.append(failure)
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Gives the metadata that carries the status to gRPC clients."""
        return ((STATUS_DETAILS_KEY, self.status().SerializeToString()),)


def failure_of(error: DomainError, table: ErrorTable) -> Failure:
    """Looks the nearest class of `error` up in `table`, then in the kit's.

    Raises:
        KeyError: Neither names the class or a base of it: a defect, which a test of each service excludes.
    """
    for cls in type(error).__mro__:
        rule = table.get(cls) or KIT_ERRORS.get(cls)
        if rule is not None:
            retry_after_s = rule.retry_after_s if error.retry_after_s is None else error.retry_after_s
            reason = reason_name(rule.reason)
            metadata = {name: _bounded(text, MAX_METADATA_BYTES) for name, text in error.metadata.items()}
            message = _bounded(error.message, MAX_MESSAGE_BYTES)
            return Failure(rule.code, reason, message, metadata, retry_after_s, error.violations)
    raise KeyError(type(error).__name__)


def _bounded(text: str, most: int) -> str:
    """Gives the text, cut where its UTF-8 has `most` bytes, so that a status with it always fits its headers."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def internal_failure(request_id: str) -> Failure:
    """Gives the failure for a defect: neutral words, and the request id to look up in the log."""
    return Failure(
        grpc.StatusCode.INTERNAL,
        reason_name(ErrorReason.ERROR_REASON_INTERNAL),
        f"Something went wrong here; the log has it under request id {request_id}.",
        {"request_id": request_id},
    )


def failure_from_status(error: grpc.RpcError) -> Failure | None:
    """Reads the Failure out of a status that another Redoma service sent, or None if it has no ErrorInfo of ours."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return None
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return _failure_from_details(error.code(), value)
            except DecodeError:
                return None
    return None


def _failure_from_details(code: grpc.StatusCode, serialized: bytes) -> Failure | None:
    status = status_pb2.Status.FromString(serialized)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    retry_after_s: float | None = None
    found = False
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            found = info.domain == DOMAIN
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Is(quota.DESCRIPTOR):
            detail.Unpack(quota)
    if not found:
        return None
    violations = tuple(Violation(one.subject, one.description) for one in quota.violations)
    return Failure(code, info.reason, status.message, dict(info.metadata), retry_after_s, violations)
