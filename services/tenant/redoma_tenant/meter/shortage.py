"""A limit that has no room for what is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

BUDGET = "budget_micros_per_month"


class LimitScope(Enum):
    """Whose limit it is."""

    TENANT = "tenant"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is in the way, in the limit's own unit.

    Attributes:
        limit: Its name among the fields of Limits.
        limit_value: What it allows.
        remaining: What is left of it, 0 or more.
        wanted: What was asked for.
        retry_after_s: When to come back; None if waiting does not help.
        scope: Whose limit it is.
    """

    limit: str
    limit_value: int
    remaining: int
    wanted: int
    retry_after_s: float | None
    scope: LimitScope = LimitScope.TENANT

    @property
    def sentence(self) -> str:
        """Says it to people."""
        if self.limit == BUDGET:
            bound = f"spend {_money(self.limit_value)} per month"
            left, wanted = _money(self.remaining), _money(self.wanted)
        else:
            bound = f"use {self.limit_value} {self.limit.replace('_', ' ')}"
            left, wanted = str(self.remaining), str(self.wanted)
        return f"The {self.scope.value} may {bound}: {left} left, and this call needs up to {wanted}."


def shortage(limit: str, limit_value: int, remaining: int, wanted: int, retry_after_s: float | None) -> Shortage:
    """Gives a tenant's shortage; what is left of a limit that was passed is 0."""
    return Shortage(limit, limit_value, max(0, remaining), wanted, retry_after_s)


def worst(shortages: Sequence[Shortage]) -> Shortage:
    """Gives the one that lasts longest; one that waiting does not end is the worst. There must be one."""
    return max(shortages, key=lambda one: float("inf") if one.retry_after_s is None else one.retry_after_s)


def _money(micros: int) -> str:
    text = f"{micros / 1e6:.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"
