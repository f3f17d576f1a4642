"""Why the model service refuses or ends a request, and the status each reason maps to."""

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import DomainError, ErrorRule, ErrorTable


class PromptTooLong(DomainError):
    """The prompt does not fit the context window.

    `prompt_tokens` is a lower bound when the prompt was refused by its bytes alone.
    """

    def __init__(self, prompt_tokens: int, context_tokens: int, counted: bool = True) -> None:
        size = f"{prompt_tokens}" if counted else f"at least {prompt_tokens}"
        super().__init__(
            f"The prompt has {size} tokens and the context window holds {context_tokens}, "
            "of which at least one is for the answer; shorten the prompt.",
            {"field": "messages", "prompt_tokens": str(prompt_tokens), "context_tokens": str(context_tokens)},
        )


class ModelNotFound(DomainError):
    """No model of that id is served to the caller."""

    def __init__(self, model: str, available: tuple[str, ...]) -> None:
        super().__init__(
            f"The model {model!r:.200} is not served here.", {"model": model[:200], "available": ",".join(available)}
        )


class ModelLoading(DomainError):
    """The weights are not loaded yet."""

    def __init__(self) -> None:
        super().__init__("The model is still loading; try again.")


class QueueFull(DomainError):
    """As many requests wait as the service lets wait, in all or of one tenant."""

    def __init__(self, waiting: int, of_tenant: bool = False) -> None:
        whose = " of this tenant" if of_tenant else ""
        super().__init__(f"{waiting} requests{whose} wait already; try again later.", {"waiting": str(waiting)})


class ReaderTooSlow(DomainError):
    """The reader left more undelivered than the service keeps."""

    def __init__(self, undelivered_tokens: int) -> None:
        super().__init__(f"The stream was ended: {undelivered_tokens} tokens were waiting to be read.")


class GenerationFailed(DomainError):
    """The model could not compute the request."""

    def __init__(self) -> None:
        super().__init__("The model could not compute this request; others go on.")


class InputTooLong(DomainError):
    """A text to embed does not fit the context window.

    `tokens` is a lower bound when the text was refused by its bytes alone.
    """

    def __init__(self, field: str, tokens: int, context_tokens: int, counted: bool = True) -> None:
        size = f"{tokens}" if counted else f"at least {tokens}"
        super().__init__(
            f"{field} has {size} tokens and the context window holds {context_tokens}; shorten it.",
            {"field": field, "prompt_tokens": str(tokens), "context_tokens": str(context_tokens)},
        )


class ModelNotProvisioned(DomainError):
    """The tenant is served by a process of its own only, and this is not it."""

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"The model process of tenant {tenant} is not ready; it is served by no other.", {"tenant": tenant}
        )


class ModelDedicated(DomainError):
    """This process serves another tenant alone."""

    def __init__(self) -> None:
        super().__init__("This model process serves one tenant alone, and the caller is another.")


class AdapterNotFound(DomainError):
    """No adapter of that digest is loaded, or no manifest of that name is there."""

    def __init__(self, adapter: str) -> None:
        super().__init__(
            f"There is no adapter {adapter!r:.200} here.",
            {"adapter": adapter[:200]},
        )


class AdapterDenied(DomainError):
    """The adapter belongs to another tenant."""

    def __init__(self) -> None:
        super().__init__("The adapter belongs to another tenant.")


class AdapterIncompatible(DomainError):
    """The adapter can't be used; `problem` is "base", "file", "digest" or "manifest"."""

    def __init__(self, problem: str, message: str) -> None:
        super().__init__(message, {"problem": problem})


class TenantPurged(DomainError):
    """An operator dropped all that is held of the tenant while the request ran."""

    def __init__(self) -> None:
        super().__init__("An operator ended the tenant's requests and dropped what is held of it; try again.")


class ModelFileInvalid(DomainError):
    """The file is no model that can be served."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message, {"file": file[:200]})


class DeadlineUnreachable(DomainError):
    """A waiting request could not begin to answer before its deadline."""

    def __init__(self, remaining_s: float, needed_s: float) -> None:
        super().__init__(
            f"The answer could not begin in the {remaining_s:.1f} s left: it would take about {needed_s:.1f} s.",
            {"remaining_s": f"{remaining_s:.1f}", "needed_s": f"{needed_s:.1f}"},
        )


class StateConflict(DomainError):
    """The call does not fit the state of what it names."""


class MemoryInsufficient(DomainError):
    """A model would take more memory than is free."""

    def __init__(self, file: str, needed_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"{file} needs about {needed_bytes >> 20} MiB of memory with these settings, and "
            f"{available_bytes >> 20} MiB are free; use a smaller model, fewer kv_cells or a smaller cache type.",
            {"needed_bytes": str(needed_bytes), "available_bytes": str(available_bytes)},
        )


class EngineStalled(DomainError):
    """An engine has been in one step for long."""

    def __init__(self, step_s: float) -> None:
        super().__init__(
            f"The engine has been in one step for {step_s:.1f} s and does not answer; try again.",
            {"step_s": f"{step_s:.1f}"},
        )


class ModelFileError(Exception):
    """The model can't be loaded; the message is one sentence for the operator."""


_REASON = ErrorReason
MODEL_ERRORS: ErrorTable = {
    PromptTooLong: ErrorRule(grpc.StatusCode.INVALID_ARGUMENT, _REASON.ERROR_REASON_PROMPT_TOO_LONG),
    ModelNotFound: ErrorRule(grpc.StatusCode.NOT_FOUND, _REASON.ERROR_REASON_MODEL_NOT_FOUND),
    ModelLoading: ErrorRule(grpc.StatusCode.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_LOADING, 1.0),
    QueueFull: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_QUEUE_FULL, 2.0),
    ReaderTooSlow: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_READER_TOO_SLOW),
    EngineStalled: ErrorRule(grpc.StatusCode.UNAVAILABLE, _REASON.ERROR_REASON_ENGINE_STALLED, 5.0),
    GenerationFailed: ErrorRule(grpc.StatusCode.INTERNAL, _REASON.ERROR_REASON_GENERATION_FAILED),
    InputTooLong: ErrorRule(grpc.StatusCode.INVALID_ARGUMENT, _REASON.ERROR_REASON_PROMPT_TOO_LONG),
    ModelNotProvisioned: ErrorRule(grpc.StatusCode.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_NOT_PROVISIONED, 5.0),
    ModelDedicated: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, _REASON.ERROR_REASON_MODEL_DEDICATED),
    AdapterNotFound: ErrorRule(grpc.StatusCode.NOT_FOUND, _REASON.ERROR_REASON_ADAPTER_NOT_FOUND),
    AdapterDenied: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, _REASON.ERROR_REASON_ADAPTER_DENIED),
    AdapterIncompatible: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, _REASON.ERROR_REASON_ADAPTER_INCOMPATIBLE),
    TenantPurged: ErrorRule(grpc.StatusCode.ABORTED, _REASON.ERROR_REASON_TENANT_PURGED),
    ModelFileInvalid: ErrorRule(grpc.StatusCode.INVALID_ARGUMENT, _REASON.ERROR_REASON_MODEL_FILE_INVALID),
    DeadlineUnreachable: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_DEADLINE_UNREACHABLE, 2.0),
    MemoryInsufficient: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_MEMORY_INSUFFICIENT),
    StateConflict: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, _REASON.ERROR_REASON_STATE_CONFLICT),
}
