"""What an engine reports of each request's cost; whoever keeps it is not the engine's business."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Ending(Enum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that a request cost; cached ones are part of the input, reasoning ones of the output."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request that was accepted.

    Attributes:
        token_id: The `jti` of its identity. Several requests may come with one.
        adapter: Digest of its adapter; empty is none.
    """

    token_id: str
    tenant: str
    adapter: str = ""


class UsageSink(Protocol):
    """Takes what one model's requests cost. Callable from any thread; each call takes about a microsecond."""

    def opened(self, request: OpenedRequest) -> None:
        """A request was accepted."""
        ...

    def counted(self, token_id: str, more: TokenCounts) -> None:
        """A request of this `jti` cost so much more since it was last counted."""
        ...

    def closed(self, token_id: str, ending: Ending) -> None:
        """A request of this `jti` ended."""
        ...
