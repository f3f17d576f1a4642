"""What bounds use, of a plan, a tenant or a key, and how that is kept as JSON."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum

from redoma_kit.errors import InvalidField

# So large that nothing reaches it, and so small that sums of amounts fit a database's integer.
MAX_LIMIT = 10**15


class AtLimit(Enum):
    """What becomes of a running answer when a limit of tokens or money is reached."""

    # It ends, so that no limit is ever passed.
    END = "END"
    # It may finish; new calls are refused.
    FINISH = "FINISH"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on use. None is no limit; zero allows nothing. The names are the contract's.

    Attributes:
        requests_per_minute: Requests in any minute.
        tokens_per_minute: Input and output tokens in any minute.
        concurrent_streams: Calls that run at the same time.
        tokens_per_day: Input and output tokens of a day of UTC.
        tokens_per_month: Input and output tokens of a month of UTC.
        budget_micros_per_month: Money of a month of UTC, in millionths of the installation's currency.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    budget_micros_per_month: int | None = None

    def over(self, others: "Limits") -> "Limits":
        """Gives these limits, and `others` one by one where these have none."""
        return Limits(**(asdict(others) | limits_to_json(self)))

    def changed(self, wanted: "Limits", names: Set[str]) -> "Limits":
        """Gives these limits with those of `wanted` that `names` names: `limits` is all, `limits.x` the limit x."""
        replaced = [name for name in LIMIT_NAMES if "limits" in names or f"limits.{name}" in names]
        return replace(self, **{name: getattr(wanted, name) for name in replaced})

    def check(self, field: str) -> None:
        """Raises InvalidField if a limit is out of range; `field` is where the request holds the limits."""
        for name, value in limits_to_json(self).items():
            if value < 0:
                raise InvalidField(f"{field}.{name}", "must not be negative; leave it out for no limit.")
            if value > MAX_LIMIT:
                raise InvalidField(f"{field}.{name}", f"must be at most {MAX_LIMIT}; leave it out for no limit.")


LIMIT_NAMES = tuple(field.name for field in fields(Limits))
NO_LIMITS = Limits()


def limits_to_json(limits: Limits) -> dict[str, int]:
    """Gives the limits that there are, by name."""
    return {name: value for name, value in asdict(limits).items() if value is not None}


def limits_from_json(value: Mapping[str, int]) -> Limits:
    """Reads what `limits_to_json` gave."""
    return Limits(**value)
