"""How the limits of a tenant or of one of its keys stand, and what of them is left."""

from dataclasses import dataclass, replace
from datetime import datetime

from redoma_tenant.limits import Limits
from redoma_tenant.meter import bucket
from redoma_tenant.meter.money import micros_down, micros_up, nanos_of
from redoma_tenant.meter.periods import day_end, day_of, month_end, month_of
from redoma_tenant.meter.shortage import Shortage, shortage
from redoma_tenant.moments import micros_of

# When what running calls hold is in the way, some of it may be let go at any moment.
HELD_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Amount:
    """What a call adds to what is used or held."""

    tokens: int = 0
    nanos: int = 0


NO_AMOUNT = Amount()


@dataclass(frozen=True, slots=True)
class Period:
    """The day and the month that a call began in, which it counts in to its end."""

    day: int
    month: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums for one set of limits. Used is for good; held is what running calls may still use.

    Attributes:
        requests_full_us: When the bucket of requests is full again, in microseconds since the epoch.
        tokens_full_us: The same of tokens used.
        open_calls: Calls that run.
        held_tokens: What all of them hold, whenever they began.
        day: The day since the epoch that the next two are of.
        month: Months since the year 0; the last four are of it.
    """

    requests_full_us: int = 0
    tokens_full_us: int = 0
    open_calls: int = 0
    held_tokens: int = 0
    day: int = 0
    day_used_tokens: int = 0
    day_held_tokens: int = 0
    month: int = 0
    month_used_tokens: int = 0
    month_held_tokens: int = 0
    month_used_nanos: int = 0
    month_held_nanos: int = 0

    @property
    def period(self) -> Period:
        """What a call that begins now counts in."""
        return Period(self.day, self.month)

    def at(self, now: datetime) -> "Counters":
        """Gives the counters at `now`: a new day or month begins with nothing. A clock behind it turns none back."""
        counters = self
        if day_of(now) > self.day:
            counters = replace(counters, day=day_of(now), day_used_tokens=0, day_held_tokens=0)
        if month_of(now) > self.month:
            counters = replace(
                counters,
                month=month_of(now),
                month_used_tokens=0,
                month_held_tokens=0,
                month_used_nanos=0,
                month_held_nanos=0,
            )
        return counters

    def with_request(self, limits: Limits, now: datetime) -> "Counters":
        """Gives the counters with a call more."""
        full_us = self.requests_full_us
        if limits.requests_per_minute is not None:
            full_us = bucket.take(full_us, limits.requests_per_minute, 1, micros_of(now))
        return replace(self, requests_full_us=full_us, open_calls=self.open_calls + 1)

    def without_call(self) -> "Counters":
        """Gives the counters with a running call less."""
        return replace(self, open_calls=self.open_calls - 1)

    def plus(self, used: Amount, held: Amount, period: Period, limits: Limits, now: datetime) -> "Counters":
        """Gives the counters with more used and held of a call that began in `period`; less where it is negative."""
        full_us = self.tokens_full_us
        if limits.tokens_per_minute is not None and used.tokens > 0:
            full_us = bucket.take(full_us, limits.tokens_per_minute, used.tokens, micros_of(now))
        same_day, same_month = period.day == self.day, period.month == self.month
        return replace(
            self,
            tokens_full_us=full_us,
            held_tokens=self.held_tokens + held.tokens,
            day_used_tokens=self.day_used_tokens + used.tokens * same_day,
            day_held_tokens=self.day_held_tokens + held.tokens * same_day,
            month_used_tokens=self.month_used_tokens + used.tokens * same_month,
            month_held_tokens=self.month_held_tokens + held.tokens * same_month,
            month_used_nanos=self.month_used_nanos + used.nanos * same_month,
            month_held_nanos=self.month_held_nanos + held.nanos * same_month,
        )

    def request_shortages(self, limits: Limits, now: datetime) -> list[Shortage]:
        """Tells which limits have no room for one call more."""
        now_us, found = micros_of(now), []
        if (size := limits.requests_per_minute) is not None:
            wait_us = bucket.wait_us(self.requests_full_us, size, 1, now_us)
            if wait_us != 0:
                left = bucket.left(self.requests_full_us, size, now_us)
                found.append(shortage("requests_per_minute", size, left, 1, _seconds(wait_us)))
        if (most := limits.concurrent_streams) is not None and self.open_calls >= most:
            retry_s = HELD_RETRY_S if most else None
            found.append(shortage("concurrent_streams", most, most - self.open_calls, 1, retry_s))
        return found

    def amount_shortages(self, limits: Limits, amount: Amount, now: datetime) -> list[Shortage]:
        """Tells which limits of tokens and money have no room for so much more."""
        found = self._minute_shortages(limits, amount.tokens, now)
        tokens = amount.tokens
        for name, limit, used, held, end in (
            ("tokens_per_day", limits.tokens_per_day, self.day_used_tokens, self.day_held_tokens, day_end(now)),
            (
                "tokens_per_month",
                limits.tokens_per_month,
                self.month_used_tokens,
                self.month_held_tokens,
                month_end(now),
            ),
        ):
            if limit is not None and used + held + tokens > limit:
                retry_s = _period_retry_s(limit, used, tokens, end, now)
                found.append(shortage(name, limit, limit - used - held, tokens, retry_s))
        if (micros := limits.budget_micros_per_month) is not None:
            limit, used, held = nanos_of(micros), self.month_used_nanos, self.month_held_nanos
            if used + held + amount.nanos > limit:
                retry_s = _period_retry_s(limit, used, amount.nanos, month_end(now), now)
                left, wanted = micros_down(limit - used - held), micros_up(amount.nanos)
                found.append(shortage("budget_micros_per_month", micros, left, wanted, retry_s))
        return found

    def room_tokens(self, limits: Limits, now: datetime) -> int | None:
        """Gives how many tokens more fit all limits of tokens; None is any number. Below 0 if one is passed."""
        rooms = []
        if (size := limits.tokens_per_minute) is not None:
            rooms.append(bucket.left(self.tokens_full_us, size, micros_of(now)) - self.held_tokens)
        if (limit := limits.tokens_per_day) is not None:
            rooms.append(limit - self.day_used_tokens - self.day_held_tokens)
        if (limit := limits.tokens_per_month) is not None:
            rooms.append(limit - self.month_used_tokens - self.month_held_tokens)
        return min(rooms, default=None)

    def room_nanos(self, limits: Limits) -> int | None:
        """Gives how much money more the budget has room for; None is any amount. Below 0 if it is passed."""
        if limits.budget_micros_per_month is None:
            return None
        return nanos_of(limits.budget_micros_per_month) - self.month_used_nanos - self.month_held_nanos

    def _minute_shortages(self, limits: Limits, tokens: int, now: datetime) -> list[Shortage]:
        if (size := limits.tokens_per_minute) is None:
            return []
        now_us = micros_of(now)
        left = bucket.left(self.tokens_full_us, size, now_us) - self.held_tokens
        if tokens <= left:
            return []
        # Once running calls have said what they hold, that much flows in again as well.
        wait_us = bucket.wait_us(self.tokens_full_us, size, tokens, now_us)
        retry_s = None if wait_us is None else max(_seconds(wait_us) or 0.0, HELD_RETRY_S if self.held_tokens else 0.0)
        return [shortage("tokens_per_minute", size, left, tokens, retry_s)]


def _seconds(wait_us: int | None) -> float | None:
    return None if wait_us is None else wait_us / 1e6


def _period_retry_s(limit: int, used: int, wanted: int, end: datetime, now: datetime) -> float | None:
    if wanted > limit:
        return None
    return HELD_RETRY_S if used + wanted <= limit else (end - now).total_seconds()
