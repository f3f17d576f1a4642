"""A limit that has no room for what is wanted."""

from dataclasses import dataclass
from enum import Enum


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


def shortage(limit: str, limit_value: int, remaining: int, wanted: int, retry_after_s: float | None) -> Shortage:
    """Gives a tenant's shortage; what is left of a limit that was passed is 0."""
    return Shortage(limit, limit_value, max(0, remaining), wanted, retry_after_s)


def worst(shortages: list[Shortage]) -> Shortage:
    """Gives the one that lasts longest; one that waiting does not end is the worst. There must be one."""
    return max(shortages, key=lambda one: float("inf") if one.retry_after_s is None else one.retry_after_s)
