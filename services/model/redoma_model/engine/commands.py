"""What the event loop asks of the engine's thread, which obeys between two steps."""

from collections.abc import Callable
from dataclasses import dataclass

from redoma_kit.errors import DomainError
from redoma_model.engine.core import EngineCore
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Stream


@dataclass(frozen=True, slots=True)
class Submit:
    """Queue a request. Times are monotonic seconds; a deadline of None is never."""

    request: Request
    stream: Stream
    submitted_at: float
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the request whose events go to a stream."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Grant:
    """Let the request whose events go to a stream have so many tokens in all."""

    stream: Stream
    tokens: int


@dataclass(frozen=True, slots=True)
class Run:
    """Do a job; `refuse` is called in its place when the engine has ended."""

    job: Callable[[EngineCore], None]
    refuse: Callable[[DomainError], None]


class Stop:
    """End every request and the thread."""


Command = Submit | Cancel | Grant | Run | Stop
