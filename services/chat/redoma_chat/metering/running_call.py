"""One metered call from its reservation to its settlement."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redoma_chat.errors import ModelRefusal, ModelUnreachable, QuotaUnavailable
from redoma_chat.inference import FinishReason, Usage
from redoma_chat.metering.grant import Grant
from redoma_chat.metering.meter import CallKey, Progress, Reservation, Settlement, Verdict
from redoma_kit.errors import DomainError

# More is asked for when fewer tokens than this are left of what was granted: seconds before they are said.
EARLY_TOKENS = 512
# As many as are asked for at a time, and as the meter holds for a call that names no bound.
SLICE_TOKENS = 1_024
# A lease is over for us a little before the meter takes it for lapsed.
LEASE_MARGIN_S = 1.0
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call may use.

    Attributes:
        input_tokens: Tokens of its prompt, or as many as they can be.
        most_tokens: Output tokens it can say at most, by its own bound and the context window.
        open_ended: Whether it named no bound, so that it is granted slices.
    """

    input_tokens: int
    most_tokens: int
    open_ended: bool = False


class RunningCall:
    """A call that runs. What is done for each token here is a few comparisons, and never waits.

    Attributes:
        key: Which call it is.
        principal: Whose it is.
        rate_limits: How limits stood when it began.
        usage: What the model has counted of it so far.
        is_exact: Whether those are its last counts, or nothing was computed.
        finish_reason: Why it ended; None while it runs, and where nothing was answered.
        model: The model that answers.
    """

    def __init__(
        self,
        key: CallKey,
        principal: str,
        reservation: Reservation,
        wanted: Wanted,
        reserved_at_s: float,
        ask: Callable[[], None],
    ) -> None:
        """Begins a call in the current task, which is what is ended when the call must end.

        Args:
            key: Which call it is.
            principal: Whose it is.
            reservation: What is held for it.
            wanted: What it may use.
            reserved_at_s: Monotonic seconds when the reservation was asked for.
            ask: Called when the call needs more than it was granted soon.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a metered call runs outside of a task")
        self.key = key
        self.principal = principal
        self.rate_limits = reservation.rate_limits
        self.usage = Usage()
        self.is_exact = True
        self.finish_reason: FinishReason | None = None
        self.model = ""
        self._task: asyncio.Task[Any] = task
        self._most_tokens = wanted.most_tokens
        self._grant = Grant(self._bounded(reservation.granted_tokens))
        self._lease_s = reservation.lease_s
        self._renewed_at_s = reserved_at_s
        self._ask = ask
        self._asks_at: float = NEVER
        self._decided = asyncio.Event()
        self._refusal: DomainError | None = None
        self._ending: DomainError | None = None
        self._aim()

    @property
    def growing_grant(self) -> Grant | None:
        """The bound that the model must keep to; None where the call's own is all there is."""
        return self._grant if self._grant.tokens < self._most_tokens else None

    @property
    def needs_more(self) -> bool:
        """Whether it will soon have said all that it was granted, and could say more."""
        return self._wants_more and self._is_near

    @property
    def was_cut(self) -> bool:
        """Whether it ended where its grant did, and not its own bound."""
        return self.finish_reason is FinishReason.LENGTH and self.usage.output_tokens < self._most_tokens

    def note(self, usage: Usage) -> None:
        """Takes the counts so far."""
        self.usage = usage
        if usage.output_tokens >= self._asks_at:
            self._asks_at = NEVER
            self._ask()

    def asked(self) -> None:
        """Notes that the model is asked from now on, so that only it knows the counts."""
        self.is_exact = False

    def started(self, model: str, input_tokens: int) -> None:
        """Notes that the model computes the prompt."""
        self.model = model
        self.usage = Usage(input_tokens=input_tokens)

    def done(self, usage: Usage, finish_reason: FinishReason) -> None:
        """Takes the last counts."""
        self.usage = usage
        self.finish_reason = finish_reason
        self.is_exact = True

    def broke(self, error: BaseException) -> None:
        """Notes what ended the call before the model did."""
        if self.finish_reason is None:
            if not self.model and _computed_nothing(error):
                self.is_exact = True
            elif isinstance(error, asyncio.CancelledError | GeneratorExit):
                self.finish_reason = FinishReason.CANCELLED
            elif self.model:
                self.finish_reason = FinishReason.INTERRUPTED

    def progress(self) -> Progress:
        """Gives what the meter is told."""
        more = min(SLICE_TOKENS, self._most_tokens - self._grant.tokens) if self.needs_more else 0
        return Progress(self.key, self.usage, more)

    def settlement(self) -> Settlement:
        """Gives what it used in the end."""
        return Settlement(self.key, self.usage, self.is_exact, self.finish_reason, self.model)

    def decide(self, verdict: Verdict, told_at_s: float) -> None:
        """Takes what the meter says to what it was told at `told_at_s`, monotonic seconds."""
        self._renewed_at_s = told_at_s
        self._grant.raise_to(self._bounded(verdict.granted_tokens))
        self._refusal = verdict.end
        if verdict.end is not None and verdict.at_once:
            self.end(verdict.end)
        elif verdict.end is None:
            self._aim()
        self._decided.set()

    def lapsed(self, now_s: float) -> bool:
        """Says whether what it holds may have lapsed at `now_s`, monotonic seconds."""
        return now_s >= self._renewed_at_s + self._lease_s - min(LEASE_MARGIN_S, self._lease_s / 2)

    def end(self, error: DomainError) -> None:
        """Ends the call, wherever it waits, with `error`; the first one counts."""
        if self._ending is None:
            self._ending = error
            self._task.cancel()

    @contextmanager
    def endable(self) -> Iterator[None]:
        """Runs the call's work so that `end` raises its error there, in place of the cancellation it is made by."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if self._ending is not None and self._task.uncancel() == 0:
                raise self._ending from None
            raise

    async def check_cut(self, patience_s: float) -> None:
        """Raises why a call was granted no more, after its grant ended it; waits for the meter to say so.

        Raises:
            QuotaExceeded: A limit is reached.
            QuotaUnavailable: The meter does not answer within `patience_s` seconds.
        """
        try:
            async with asyncio.timeout(patience_s):
                while self._refusal is None and self._grant.tokens <= self.usage.output_tokens:
                    self._decided.clear()
                    self._ask()
                    await self._decided.wait()
        except TimeoutError:
            raise QuotaUnavailable() from None
        if self._refusal is not None:
            raise self._refusal

    @property
    def _wants_more(self) -> bool:
        return self._grant.tokens < self._most_tokens

    @property
    def _is_near(self) -> bool:
        return self.usage.output_tokens >= self._grant.tokens - EARLY_TOKENS

    def _aim(self) -> None:
        """Says from which count on more is asked for."""
        self._asks_at = self._grant.tokens - EARLY_TOKENS if self._wants_more else NEVER

    def _bounded(self, granted_tokens: int | None) -> int:
        return self._most_tokens if granted_tokens is None else min(granted_tokens, self._most_tokens)


def _computed_nothing(error: BaseException) -> bool:
    """Says whether the model service refused a call, or never heard of it."""
    return isinstance(error, ModelRefusal) or (isinstance(error, ModelUnreachable) and not error.was_asked)
