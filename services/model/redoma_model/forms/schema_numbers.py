"""Numbers within bounds, digit by digit.

Bounds are decimals as they are written in the schema. A number with a bound has no exponent, and no more digits behind
the point than keep it apart from the bound where it is read as a double.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused
from redoma_model.forms.schema_rules import Rules, either, literal

# Digits that a double keeps apart.
_DIGITS = 15
# What has no bound ends here.
_LARGEST_NUMBER = 10**_DIGITS - 1
_LARGEST_INTEGER = 10**16 - 1
# A bound beyond is none.
_LIMIT = 10**20


@dataclass(frozen=True, slots=True)
class Bound:
    """A least or a largest number.

    Attributes:
        value: The number.
        open: Whether it is not itself allowed.
        path: Where the schema says so.
    """

    value: Decimal
    open: bool
    path: Path


@dataclass(frozen=True, slots=True)
class NumberLimits:
    """What a number must be like.

    Attributes:
        least: None is without end.
        largest: None is without end.
        zeros: How many zeros a whole number ends in at least; None is any number.
    """

    least: Bound | None
    largest: Bound | None
    zeros: int | None

    def allow(self, value: int | float) -> bool:
        """Tells whether a number is within the limits."""
        if not math.isfinite(value):
            return False
        number = Fraction(str(value))
        whole = self.zeros is None or number % 10**self.zeros == 0
        return whole and self._above(number) and self._below(number)

    def _above(self, number: Fraction) -> bool:
        least = self.least
        return least is None or number > Fraction(least.value) or (number == Fraction(least.value) and not least.open)

    def _below(self, number: Fraction) -> bool:
        most = self.largest
        return most is None or number < Fraction(most.value) or (number == Fraction(most.value) and not most.open)


def bound(value: object, is_open: bool, path: Path) -> Bound:
    """Reads a bound; raises SchemaRefused when it is no number, or one with too many digits."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaRefused(path, "is not a number that can be followed")
    return Bound(Decimal(value) if isinstance(value, int) else Decimal(repr(value)), is_open, path)


def zeros_of(value: object, path: Path) -> int:
    """Reads a multipleOf that is a power of ten: its zeros."""
    number = bound(value, False, path).value.normalize()
    exponent = number.as_tuple().exponent
    if number <= 0 or number.as_tuple().digits != (1,) or not isinstance(exponent, int) or not 0 <= exponent <= _DIGITS:
        raise SchemaRefused(path, "can't be followed unless it is 1, 10, 100 and so on")
    return exponent


def strictest(bounds: Iterable[Bound], least: bool) -> Bound | None:
    """Gives the bound that holds when all do."""
    if least:
        return max(bounds, key=lambda one: (one.value, one.open), default=None)
    return min(bounds, key=lambda one: (one.value, not one.open), default=None)


def number_expression(limits: NumberLimits, rules: Rules) -> str:
    """Gives the expression of a number within limits.

    Raises:
        SchemaRefused: The limits are too large; SchemaAllowsNothing when no number is within them.
    """
    limits = replace(limits, least=_near(limits.least, True), largest=_near(limits.largest, False))
    if limits.largest is None and not limits.zeros:
        if limits.least is None:
            return "number" if limits.zeros is None else "integer"
        if not limits.least.value and not limits.least.open:
            return "positive" if limits.zeros is None else "whole"
    places = 0 if limits.zeros is not None else _places(limits)
    low, high = _whole_bounds(limits, Fraction(10**places, 10 ** (limits.zeros or 0)))
    return _Digits(rules, places).between(low, high, "0" * (limits.zeros or 0))


def _places(limits: NumberLimits) -> int:
    """Gives how many digits there may be behind the point."""
    given = [one.value for one in (limits.least, limits.largest) if one is not None]
    return max(0, _DIGITS - max(len(str(abs(int(value)))) for value in given))


def _whole_bounds(limits: NumberLimits, scale: Fraction) -> tuple[int, int]:
    """Gives the least and the largest number in units of the last digit, both allowed."""
    least, most = limits.least, limits.largest
    end = (_LARGEST_INTEGER if limits.zeros is not None else _LARGEST_NUMBER) * scale
    low = high = None
    if least is not None:
        exact = Fraction(least.value) * scale
        low = math.ceil(exact) + (least.open and exact.denominator == 1)
    if most is not None:
        exact = Fraction(most.value) * scale
        high = math.floor(exact) - (most.open and exact.denominator == 1)
    if low is None:
        low = math.ceil(-end if high is None or high >= -end else -_LIMIT * scale)
    if high is None:
        high = math.floor(end if low <= end else _LIMIT * scale)
    given = most or least
    if given is not None and low > high:
        raise SchemaAllowsNothing(given.path, "leaves no number that can be written")
    return low, high


def _near(given: Bound | None, least: bool) -> Bound | None:
    """Leaves out a bound that no number reaches; raises SchemaRefused when all would have to be beyond it."""
    if given is None or abs(given.value) <= _LIMIT:
        return given
    if (given.value > 0) == least:
        raise SchemaRefused(given.path, "is too large")
    return None


class _Digits:
    """Writes numbers with up to so many digits behind the point."""

    def __init__(self, rules: Rules, places: int) -> None:
        self._rules = rules
        self._places = places

    def between(self, low: int, high: int, suffix: str) -> str:
        """Gives the expression of what is between two numbers in units of the last digit."""
        found = []
        if low <= 0 <= high and suffix:
            found.append('"0"')
        first = max(low, 1 if suffix else 0)
        after = f" {literal(suffix)}" if suffix else ""
        if first <= high:
            found.append(f"{self._positive(first, high)}{after}")
        if low < 0:
            found.append(f'"-" {self._positive(max(1, -high), -low)}{after}')
        return self._rules.add(either(found))

    def _positive(self, low: int, high: int) -> str:
        unit = 10**self._places
        (first, low_part), (last, high_part) = divmod(low, unit), divmod(high, unit)
        low_digits, high_digits = self._part(low_part), self._part(high_part)
        if first == last:
            return f"{literal(str(first))} {self._point(low_digits, high_digits)}".rstrip()
        found: list[str] = []
        if low_part:
            found.append(f"{literal(str(first))} {self._point(low_digits, None)}")
            first += 1
        if high_part != unit - 1:
            found.append(f"{literal(str(last))} {self._point(None, high_digits)}")
            last -= 1
        if first <= last:
            found.append(f"{self._whole(str(first), str(last))} {self._point(None, None)}".rstrip())
        return self._rules.add(either(found))

    def _part(self, part: int) -> str:
        return str(part).zfill(self._places) if self._places else ""

    def _whole(self, low: str, high: str) -> str:
        if len(low) == len(high):
            return self._same_length(low, high)
        found = [self._same_length(low, "9" * len(low)), self._same_length("1" + "0" * (len(high) - 1), high)]
        if len(high) - len(low) > 1:
            found.append(f"[1-9] [0-9]{{{len(low)},{len(high) - 2}}}")
        return self._rules.add(either(found))

    def _same_length(self, low: str, high: str) -> str:
        if low == high:
            return literal(low)
        rest = len(low) - 1
        if not rest:
            return f"[{low}-{high}]"
        if low[0] == high[0]:
            return f"{literal(low[0])} {self._same_length(low[1:], high[1:])}"
        first, last = int(low[0]), int(high[0])
        found: list[str] = []
        if low[1:].strip("0"):
            found.append(f"{literal(low[0])} {self._same_length(low[1:], '9' * rest)}")
            first += 1
        if high[1:].strip("9"):
            found.append(f"{literal(high[0])} {self._same_length('0' * rest, high[1:])}")
            last -= 1
        if first <= last:
            found.append(f"[{first}-{last}] [0-9]{{{rest}}}")
        return self._rules.add(either(found))

    def _point(self, low: str | None, high: str | None) -> str:
        """Gives the expression of what follows a whole part; None is no limit."""
        if not self._places:
            return ""
        digits = self._fraction(low, high, self._places)
        if (low or "").strip("0"):
            return f'"." {digits}'
        return self._rules.add(f'( "." {digits} )?')

    def _fraction(self, low: str | None, high: str | None, left: int) -> str:
        """Gives one digit or more between limits, both as long as what is left."""
        low = low if (low or "").strip("0") else None
        high = high if (high or "9").strip("9") or high is None else None
        high = None if high is not None and not high.strip("9") else high
        if low is None and high is None:
            return self._rules.add(f"[0-9]{{1,{left}}}")
        if high is not None and not high.strip("0"):
            return self._rules.add(f'"0"{{1,{left}}}')
        first, last = int((low or "0")[0]), int((high or "9")[0])
        if first == last:
            return f"{literal(str(first))} {self._rest(low, high, left)}".rstrip()
        found: list[str] = []
        if low is not None and low[1:].strip("0"):
            found.append(f"{literal(str(first))} {self._rest(low, None, left)}")
            first += 1
        if high is not None and high[1:].strip("9"):
            found.append(f"{literal(str(last))} {self._rest(None, high, left)}")
            last -= 1
        if first <= last:
            found.append(f"[{first}-{last}] [0-9]{{0,{left - 1}}}")
        return self._rules.add(either(found))

    def _rest(self, low: str | None, high: str | None, left: int) -> str:
        low, high = (None if one is None else one[1:] for one in (low, high))
        if left == 1:
            return ""
        digits = self._fraction(low, high, left - 1)
        return digits if (low or "").strip("0") else self._rules.add(f"( {digits} )?")
