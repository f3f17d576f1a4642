"""What is told to the meter, and what it answers."""

from dataclasses import dataclass
from enum import Enum

from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.meter.reservation import Caller
from redoma_tenant.meter.shortage import Shortage


@dataclass(frozen=True, slots=True)
class Start:
    """A call that is about to be made. `max_output_tokens` 0 is no bound."""

    token_id: str
    caller: Caller
    model: str
    input_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a running call has used so far. `wanted_output_tokens` are beyond those granted."""

    token_id: str
    counts: TokenCounts
    wanted_output_tokens: int


class Certainty(Enum):
    """How well what a call used is known."""

    # The model service may have counted more.
    SO_FAR = "SO_FAR"
    # Its chat has the model service's last counts.
    EXACT = "EXACT"
    # The model service's journal says so, and that the call has ended.
    JOURNAL = "JOURNAL"
    # Nobody knows more.
    LAST_WORD = "LAST_WORD"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a call used in the end. `model` is the one that answered, empty if none did or it is not known."""

    token_id: str
    counts: TokenCounts
    certainty: Certainty
    model: str = ""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How a bucket stands. `reset_s` is until all of it is there."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits by the minute; None is no limit."""

    requests: RateLimit | None
    tokens: RateLimit | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A call may be made. `granted_output_tokens` None is as many as it likes."""

    granted_output_tokens: int | None
    rate_limits: RateLimits


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call may not be made: a limit has no room, or `end` names the reason why the caller may not call at all."""

    shortages: tuple[Shortage, ...]
    end: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A call of the same `jti` has ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a running call may go on: `end` is empty, or the reason why not. With QUOTA_EXCEEDED comes the limit."""

    granted_output_tokens: int | None
    end: str
    shortage: Shortage | None = None
