"""The meter: the part of the tenant service that counts what calls use."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redoma_chat.inference import NO_RATE_LIMITS, FinishReason, RateLimits, Usage
from redoma_kit.errors import DomainError

# A request tells of so many calls at most.
MOST_CALLS = 4_096


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is held for a call.

    Attributes:
        granted_tokens: Output tokens that it may say before it has to ask for more; None is as many as it likes.
        lease_s: It lapses so many seconds after it was last told of.
        rate_limits: For the caller's headers.
    """

    granted_tokens: int | None
    lease_s: float
    rate_limits: RateLimits = NO_RATE_LIMITS


@dataclass(frozen=True, slots=True)
class CallKey:
    """Which call: its tenant, and the `jti` of its identity."""

    tenant: str
    token_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running call has used so far, and how many output tokens beyond those granted it would like to say."""

    key: CallKey
    usage: Usage
    wanted_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a running call may go on.

    Attributes:
        granted_tokens: Output tokens that it may say in all; None is as many as it likes.
        end: Why it must end; None if it may go on.
        at_once: Whether it must end now, and not when it has said what it was granted.
    """

    granted_tokens: int | None
    end: DomainError | None = None
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call used in the end.

    Attributes:
        exact: Whether those are the model service's last counts; otherwise its journal is asked.
        finish_reason: None where nothing was answered.
        model: The id of the model that answered; empty if none did.
    """

    key: CallKey
    usage: Usage
    exact: bool
    finish_reason: FinishReason | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Whose running calls must end: those of a principal, or of all of the tenant where it is empty.

    `error` makes why, anew for each call.
    """

    tenant: str
    principal: str
    error: Callable[[], DomainError]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the meter said of revocations: how far it is, and the next of them, if there is one."""

    position: int
    revocation: Revocation | None


class Meter(Protocol):
    """What counts. Every method raises QuotaUnavailable where it does not answer."""

    async def reserve(self, model: str, input_tokens: int, max_output_tokens: int, timeout_s: float) -> Reservation:
        """Holds what the call being handled may use; a `max_output_tokens` of 0 is as many as the meter thinks fit.

        Raises:
            QuotaExceeded: A limit would be passed. Nothing is held.
        """
        ...

    async def checkpoint(self, calls: Sequence[Progress]) -> list[Verdict]:
        """Tells of at most MOST_CALLS running calls; gives a verdict for each, in their order."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Books at most MOST_CALLS calls; gives for each whether anything was held for it, in their order."""
        ...

    def revocations(self, after_position: int) -> AsyncGenerator[Seen, None]:
        """Tells of revocations as they happen, and once a second that there are none. 0 is from now on."""
        ...
