"""Thresholds of limits, at which operators are warned."""

from collections.abc import Sequence
from dataclasses import dataclass

from redoma_tenant.limits import Limits
from redoma_tenant.meter.counters import Counters
from redoma_tenant.meter.money import nanos_of

DEFAULT_WARNING_PERCENTS = (80, 95)


@dataclass(frozen=True, slots=True)
class LimitWarning:
    """A threshold of a limit is reached."""

    limit: str
    percent: int


def reached_percent(used: int, limit: int, percents: Sequence[int]) -> int:
    """Gives the highest of the rising `percents` that is reached; 0 is none. A limit of 0 has none to reach."""
    return max((percent for percent in percents if limit and used * 100 >= limit * percent), default=0)


def warnings_between(before: Counters, after: Counters, limits: Limits, percents: Sequence[int]) -> list[LimitWarning]:
    """Gives the thresholds that were reached between the two."""
    then, now = reached_percents(before, limits, percents), reached_percents(after, limits, percents)
    return [LimitWarning(limit, percent) for limit, percent in now.items() if percent > then[limit]]


def reached_percents(counters: Counters, limits: Limits, percents: Sequence[int]) -> dict[str, int]:
    """Gives the highest threshold that is reached of each limit that has any, by its name; 0 is none."""
    reached = {}
    for name, limit, used in (
        ("tokens_per_day", limits.tokens_per_day, counters.day_used_tokens),
        ("tokens_per_month", limits.tokens_per_month, counters.month_used_tokens),
        ("budget_micros_per_month", limits.budget_micros_per_month, counters.month_used_nanos),
    ):
        if limit is not None:
            whole = nanos_of(limit) if name == "budget_micros_per_month" else limit
            reached[name] = reached_percent(used, whole, percents)
    return reached
