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
    """As many requests wait as the service lets wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests wait already; try again later.", {"waiting": str(waiting)})


class ReaderTooSlow(DomainError):
    """The reader left more undelivered than the service keeps."""

    def __init__(self, undelivered_tokens: int) -> None:
        super().__init__(f"The stream was ended: {undelivered_tokens} tokens were waiting to be read.")


class GenerationFailed(DomainError):
    """The model could not compute the request."""

    def __init__(self) -> None:
        super().__init__("The model could not compute this request; others go on.")


class ModelFileError(Exception):
    """The model can't be loaded; the message is one sentence for the operator."""


_REASON = ErrorReason
MODEL_ERRORS: ErrorTable = {
    PromptTooLong: ErrorRule(grpc.StatusCode.INVALID_ARGUMENT, _REASON.ERROR_REASON_PROMPT_TOO_LONG),
    ModelNotFound: ErrorRule(grpc.StatusCode.NOT_FOUND, _REASON.ERROR_REASON_MODEL_NOT_FOUND),
    ModelLoading: ErrorRule(grpc.StatusCode.UNAVAILABLE, _REASON.ERROR_REASON_MODEL_LOADING, 1.0),
    QueueFull: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_QUEUE_FULL, 2.0),
    ReaderTooSlow: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, _REASON.ERROR_REASON_READER_TOO_SLOW),
    GenerationFailed: ErrorRule(grpc.StatusCode.INTERNAL, _REASON.ERROR_REASON_GENERATION_FAILED),
}
