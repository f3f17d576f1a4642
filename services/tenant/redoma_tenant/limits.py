"""What bounds use, and how that is kept as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from redoma_kit.errors import InvalidField


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on use. None is no limit; zero allows nothing.

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

    def check(self, field: str) -> None:
        """Raises InvalidField if a limit is negative; `field` is where the request holds the limits."""
        for name, value in limits_to_json(self).items():
            if value < 0:
                raise InvalidField(f"{field}.{name}", "must not be negative; leave it out for no limit.")


def limits_to_json(limits: Limits) -> dict[str, int]:
    """Gives the limits that there are, by name."""
    return {name: value for name, value in asdict(limits).items() if value is not None}


def limits_from_json(value: Mapping[str, int]) -> Limits:
    """Reads what `limits_to_json` gave."""
    return Limits(**value)
