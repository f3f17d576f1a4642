"""Why the chat service refuses or ends a call, and the status each reason maps to.

What the model service refuses reaches the caller under the same code and reason.
"""

import re
from collections.abc import Callable
from typing import Self

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import (
    CredentialInvalid,
    DeadlineExceeded,
    DomainError,
    ErrorRule,
    ErrorTable,
    Failure,
    reason_name,
)


class InputRefused(DomainError):
    """A check of the tenant refused the input."""

    def __init__(self, check: str, problem: str) -> None:
        super().__init__(problem, {"check": check})


class StateConflict(DomainError):
    """The message is not in a state that allows the call."""

    def __init__(self, state: str) -> None:
        super().__init__(f"The message's state {state} does not allow this call.", {"state": state})


class ChecksUnavailable(DomainError):
    """The tenant service can't be asked what to check, and nothing fresh is known."""

    def __init__(self) -> None:
        super().__init__("The tenant's content checks can't be read right now; try again.")


class ContentStorageOff(DomainError):
    """What the caller would say may not be kept."""


class ContentUnreadable(DomainError):
    """What is kept does not decrypt."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            f"What is kept of {resource} can't be decrypted: it was damaged, or its key is not here. Ask an operator "
            "to restore it, or delete it.",
            {"resource": resource},
        )


class ContentErased(DomainError):
    """The conversation that the answer belongs to is being erased."""

    def __init__(self) -> None:
        super().__init__("What this call is about is being erased.")


class QuotaExceeded(DomainError):
    """A limit of the tenant or of the key would be passed, or is reached."""


class QuotaUnavailable(DomainError):
    """The meter does not answer, and nothing is served uncounted. `was_asked` says whether it may have heard."""

    def __init__(self, was_asked: bool = False) -> None:
        super().__init__("Quotas can't be checked right now; try again.")
        self.was_asked = was_asked


class CredentialRevoked(DomainError):
    """The caller's credential was revoked while the call ran."""

    def __init__(self) -> None:
        super().__init__("The credential of this call was revoked.")


class CredentialExpired(DomainError):
    """The caller's credential expired while the call ran."""

    def __init__(self) -> None:
        super().__init__("The credential of this call has expired.")


class TenantDisabled(DomainError):
    """The caller's tenant was disabled while the call ran."""

    def __init__(self, tenant: str) -> None:
        super().__init__("The tenant is disabled; an operator can enable it again.", {"tenant": tenant})


class ModelUnreachable(DomainError):
    """The model service does not answer. `was_asked` says whether it may have got the request."""

    def __init__(self, was_asked: bool = True) -> None:
        super().__init__("The model can't be reached right now; try again.")
        self.was_asked = was_asked


class ModelRefusal(DomainError):
    """The model service gave a status of its own; base of what follows."""

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """Gives the refusal with the field that it names, if any, under the name that `rename` gives for it."""
        field = self.metadata.get("field")
        if field is None:
            return self
        name = rename(field)
        message = name + self.message.removeprefix(field) if self.message.startswith(field) else self.message
        return type(self)(message, {**self.metadata, "field": name}, self.retry_after_s)


class PromptTooLong(ModelRefusal):
    """The prompt does not fit the context window."""


class ModelFieldRefused(ModelRefusal):
    """The model service found a field malformed or out of range."""


class ModelNotFound(ModelRefusal):
    """No model of that id is served to the caller."""


class ModelLoading(ModelRefusal):
    """The weights are not loaded yet."""


class ModelShuttingDown(ModelRefusal):
    """The model service takes no new calls."""


class QueueFull(ModelRefusal):
    """As many requests wait for the model as may wait."""


class ReaderTooSlow(ModelRefusal):
    """The stream was read too slowly."""


class DeadlineUnreachable(ModelRefusal):
    """The answer could not begin before the caller's deadline."""


class ModelNotProvisioned(ModelRefusal):
    """The tenant's own model process is not ready."""


class ModelDedicated(ModelRefusal):
    """The model process serves another tenant alone."""


class AdapterNotFound(ModelRefusal):
    """The adapter that the identity names is not there."""


class AdapterDenied(ModelRefusal):
    """The adapter that the identity names is another tenant's."""


class TenantPurged(ModelRefusal):
    """An operator dropped what the model service held of the tenant while the request ran."""


class GenerationFailed(ModelRefusal):
    """The model could not compute the request."""


class ModelCallDenied(ModelRefusal):
    """The model service does not let this service call it."""


class ModelScopeMissing(ModelRefusal):
    """The model service misses a scope in the caller's identity."""


class ModelDefect(ModelRefusal):
    """The model service failed in a way that it does not explain; its log does."""


_CODE = grpc.StatusCode
_REASON = ErrorReason
CHAT_ERRORS: ErrorTable = {
    InputRefused: ErrorRule(_CODE.INVALID_ARGUMENT, _REASON.ERROR_REASON_INPUT_REFUSED),
    StateConflict: ErrorRule(_CODE.FAILED_PRECONDITION, _REASON.ERROR_REASON_STATE_CONFLICT),
    ChecksUnavailable: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_STORAGE_UNAVAILABLE, 1.0),
    ContentStorageOff: ErrorRule(_CODE.FAILED_PRECONDITION, _REASON.ERROR_REASON_CONTENT_STORAGE_OFF),
    ContentUnreadable: ErrorRule(_CODE.DATA_LOSS, _REASON.ERROR_REASON_CONTENT_UNREADABLE),
    ContentErased: ErrorRule(_CODE.ABORTED, _REASON.ERROR_REASON_TENANT_PURGED),
    QuotaExceeded: ErrorRule(_CODE.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_QUOTA_EXCEEDED),
    QuotaUnavailable: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_QUOTA_UNAVAILABLE, 1.0),
    CredentialRevoked: ErrorRule(_CODE.UNAUTHENTICATED, _REASON.ERROR_REASON_CREDENTIAL_REVOKED),
    CredentialExpired: ErrorRule(_CODE.UNAUTHENTICATED, _REASON.ERROR_REASON_CREDENTIAL_EXPIRED),
    TenantDisabled: ErrorRule(_CODE.PERMISSION_DENIED, _REASON.ERROR_REASON_TENANT_DISABLED),
    ModelUnreachable: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_UNREACHABLE, 1.0),
    PromptTooLong: ErrorRule(_CODE.INVALID_ARGUMENT, _REASON.ERROR_REASON_PROMPT_TOO_LONG),
    ModelFieldRefused: ErrorRule(_CODE.INVALID_ARGUMENT, _REASON.ERROR_REASON_INVALID_FIELD),
    ModelNotFound: ErrorRule(_CODE.NOT_FOUND, _REASON.ERROR_REASON_MODEL_NOT_FOUND),
    ModelLoading: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_LOADING, 1.0),
    ModelShuttingDown: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_SHUTTING_DOWN, 1.0),
    QueueFull: ErrorRule(_CODE.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_QUEUE_FULL, 2.0),
    ReaderTooSlow: ErrorRule(_CODE.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_READER_TOO_SLOW),
    DeadlineUnreachable: ErrorRule(_CODE.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_DEADLINE_UNREACHABLE, 2.0),
    ModelNotProvisioned: ErrorRule(_CODE.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_NOT_PROVISIONED, 2.0),
    ModelDedicated: ErrorRule(_CODE.PERMISSION_DENIED, _REASON.ERROR_REASON_MODEL_DEDICATED),
    AdapterNotFound: ErrorRule(_CODE.NOT_FOUND, _REASON.ERROR_REASON_ADAPTER_NOT_FOUND),
    AdapterDenied: ErrorRule(_CODE.PERMISSION_DENIED, _REASON.ERROR_REASON_ADAPTER_DENIED),
    TenantPurged: ErrorRule(_CODE.ABORTED, _REASON.ERROR_REASON_TENANT_PURGED),
    GenerationFailed: ErrorRule(_CODE.INTERNAL, _REASON.ERROR_REASON_GENERATION_FAILED),
    ModelCallDenied: ErrorRule(_CODE.PERMISSION_DENIED, _REASON.ERROR_REASON_METHOD_DENIED),
    ModelScopeMissing: ErrorRule(_CODE.PERMISSION_DENIED, _REASON.ERROR_REASON_SCOPE_MISSING),
    ModelDefect: ErrorRule(_CODE.INTERNAL, _REASON.ERROR_REASON_INTERNAL),
}

_BY_REASON: dict[str, type[DomainError]] = {
    reason_name(rule.reason): cls for cls, rule in CHAT_ERRORS.items() if issubclass(cls, ModelRefusal)
} | {reason_name(_REASON.ERROR_REASON_CREDENTIAL_INVALID): CredentialInvalid}


# What Envoy says of a call that it had nowhere to send, or not yet.
_SENT_NOWHERE = re.compile(
    r"no healthy upstream|reset reason: (?:local connection failure|remote connection failure|connection timeout"
    r"|overflow)"
)


def refusal_of_model(code: grpc.StatusCode, failure: Failure | None, said: str = "") -> DomainError:
    """Gives the exception for a call of the model service that ended with `code`.

    `failure` is what the service itself said of it, which it always does; None means that the egress, or something on
    the way to the model, ended the call, before or in the middle of a stream. `said` are the words with the code.
    """
    if failure is None:
        if code is _CODE.DEADLINE_EXCEEDED:
            return DeadlineExceeded()
        return ModelUnreachable(was_asked=code is not _CODE.UNAVAILABLE or not _SENT_NOWHERE.search(said))
    if failure.reason == reason_name(_REASON.ERROR_REASON_DEADLINE_EXCEEDED):
        return DeadlineExceeded()
    cls = _BY_REASON.get(failure.reason, ModelDefect)
    return cls(failure.message, failure.metadata, failure.retry_after_s)
