"""The few statistics that the benches share."""

import math
from collections.abc import Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def rotated(values: Sequence[T], places: int) -> list[T]:
    """Gives the same values beginning with another one, so that what runs first is another each time."""
    places %= len(values)
    return [*values[places:], *values[:places]]


def jain_index(shares: Sequence[float]) -> float:
    """Gives how evenly something is shared: 1 when all get the same, 1/n when one gets everything (Jain, 1984)."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def quantile(values: Sequence[float], part: float) -> float:
    """Gives the least of `values` that at least a `part` of them does not exceed; part is 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def median_ratio(values: Sequence[float], peers: Sequence[float]) -> float:
    """Gives the median of the ratios round by round, as the speed of a machine drifts from round to round."""
    return median(value / peer for value, peer in zip(values, peers, strict=True))


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Gives the slope of the line that fits best, in units of the values per unit of time; 0 for fewer than two."""
    middle = sum(times) / max(1, len(times))
    spread = sum((time - middle) ** 2 for time in times)
    return sum((time - middle) * value for time, value in zip(times, values, strict=True)) / spread if spread else 0.0
