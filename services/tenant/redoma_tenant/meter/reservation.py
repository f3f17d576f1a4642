"""What one call holds and has used, from Reserve until its last counts are booked."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from redoma_tenant.meter.counters import NO_AMOUNT, Amount, Period
from redoma_tenant.meter.counts import NOTHING, TokenCounts
from redoma_tenant.meter.money import Price

LEASE = timedelta(seconds=30)


class ReservationState(Enum):
    """How far a call is."""

    # It runs, or its chat died.
    OPEN = "OPEN"
    # Booked; the model service's journal may know more.
    SETTLED = "SETTLED"
    # Booked for good.
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Of the ids, those that do not apply are empty."""

    principal: str
    api_key_id: str
    user_id: str
    adapter: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """A call as it is kept.

    Attributes:
        model: The model asked for; once it is known, the one that answered.
        price: Of the tokens, as it was when the call began.
        reserved_input_tokens: What its prompt has at most.
        granted_output_tokens: What it may say in all; None is as much as it likes.
        held: What it may use beyond `counts`.
        counts: What it has used, as far as is known. Only grows.
        is_exact: While it runs: whether the count of its chat may be the last word. Then: whether `counts` is.
        period: What it counts in.
        revision: How many transactions the ledger has of it.
        lapse_time: When the journal is asked about it, unless a checkpoint comes first.
        settle_time: When it was booked first; while it runs, when it was found to have lapsed.
    """

    token_id: str
    caller: Caller
    model: str
    price: Price
    reserved_input_tokens: int
    granted_output_tokens: int | None
    held: Amount
    create_time: datetime
    lapse_time: datetime
    period: Period
    state: ReservationState = ReservationState.OPEN
    counts: TokenCounts = NOTHING
    is_exact: bool = True
    revision: int = 0
    settle_time: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it runs, as far as is known."""
        return self.state is ReservationState.OPEN

    @property
    def is_final(self) -> bool:
        """Whether nothing more is to be learnt of it."""
        return self.state is ReservationState.CLOSED and self.is_exact

    @property
    def cost_nanos(self) -> int:
        """What it has cost so far."""
        return self.price.cost_nanos(self.counts)

    def renewed(self, now: datetime) -> "Reservation":
        """Gives it with its lease begun anew."""
        return replace(self, lapse_time=now + LEASE, settle_time=None)

    def with_more_granted(self, tokens: int) -> "Reservation":
        """Gives it with so many output tokens more."""
        more = self.price.cost_nanos(TokenCounts(output_tokens=tokens))
        held = Amount(self.held.tokens + tokens, self.held.nanos + more)
        return replace(self, granted_output_tokens=(self.granted_output_tokens or 0) + tokens, held=held)

    def counted(self, counts: TokenCounts) -> "Reservation":
        """Gives a running call with what it has used now, and with so much less to hold."""
        counts = self.counts.at_least(counts)
        held_input = max(0, self.reserved_input_tokens - counts.input_tokens)
        held_output = max(0, self._held_output_tokens - (counts.output_tokens - self.counts.output_tokens))
        return replace(self, counts=counts, held=self._hold(counts, held_input, held_output))

    def ended(self, counts: TokenCounts, price: Price, model: str, state: ReservationState) -> "Reservation":
        """Gives it with its last counts as far as they are known, at the price of what answered.

        Until they are known for sure it holds on to what it may have used beyond them.
        """
        is_known = ReservationState.CLOSED in (self.state, state)
        held = NO_AMOUNT if is_known else self.counted(counts).held
        return replace(self, counts=self.counts.at_least(counts), price=price, model=model, state=state, held=held)

    @property
    def _held_output_tokens(self) -> int:
        return self.held.tokens - max(0, self.reserved_input_tokens - self.counts.input_tokens)

    def _hold(self, counts: TokenCounts, held_input: int, held_output: int) -> Amount:
        rest = self.price.cost_nanos(TokenCounts(input_tokens=held_input, output_tokens=held_output))
        # What it costs in the end is within either; each rounds up by itself.
        bound = self.cost_nanos + self.held.nanos - self.price.cost_nanos(counts)
        return Amount(held_input + held_output, max(0, min(rest, bound)))
