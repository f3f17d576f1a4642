"""Limits on the command line: options that set them, and how they are written down."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from redoma.tenant.v1.quota_pb2 import Limits
from redoma_cli.commands.money import money_micros, money_text
from redoma_cli.errors import CliError

NO_LIMIT = "none"
BUDGET_DIGITS = 9
BUDGET_MEND = "Write it as 25 or 7.50; `none` takes the limit away."
SIZES = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
AMOUNT = re.compile(r"([0-9]{1,15})([kMG]?)")
BUDGET = "budget_micros_per_month"

RequestsOption = Annotated[
    str | None, typer.Option("--requests-per-minute", metavar="N", help="Requests in any minute; `none` is no limit.")
]
TokensOption = Annotated[
    str | None, typer.Option("--tokens-per-minute", metavar="N", help="Tokens in any minute, such as 20k.")
]
StreamsOption = Annotated[
    str | None, typer.Option("--concurrent-streams", metavar="N", help="Calls that run at the same time.")
]
DayOption = Annotated[str | None, typer.Option("--tokens-per-day", metavar="N", help="Tokens of a day, such as 2M.")]
MonthOption = Annotated[str | None, typer.Option("--tokens-per-month", metavar="N", help="Tokens of a month.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget-per-month", metavar="MONEY", help="Money of a month, such as 25 or 7.50.")
]


def limits_given(
    requests_per_minute: str | None,
    tokens_per_minute: str | None,
    concurrent_streams: str | None,
    tokens_per_day: str | None,
    tokens_per_month: str | None,
    budget_per_month: str | None,
) -> Mapping[str, str | None]:
    """Gives what the options say by the names of the limits, None for what is not given."""
    return {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_streams": concurrent_streams,
        "tokens_per_day": tokens_per_day,
        "tokens_per_month": tokens_per_month,
        BUDGET: budget_per_month,
    }


def change_limits(limits: Limits, given: Mapping[str, str | None]) -> bool:
    """Sets in `limits` what is given by name, `none` taking a limit away; says whether anything was given.

    Raises:
        CliError: Something given is no amount.
    """
    for name, text in given.items():
        if text == NO_LIMIT:
            limits.ClearField(name)  # type: ignore[arg-type]
        elif text is not None:
            setattr(limits, name, money_micros(text, BUDGET_DIGITS, BUDGET_MEND) if name == BUDGET else _amount(text))
    return any(text is not None for text in given.values())


def limit_rows(limits: Limits) -> Iterator[tuple[str, str]]:
    """Gives what each limit is called and allows, for people."""
    for field, value in limits.ListFields():
        yield limit_name(field.name), amount_text(field.name, value)


def limit_name(limit: str) -> str:
    """Gives what people call a limit."""
    return "budget per month" if limit == BUDGET else limit.replace("_", " ")


def amount_text(limit: str, value: int) -> str:
    """Gives an amount in a limit's own unit, for people."""
    return money_text(value) if limit == BUDGET else f"{value:,}"


def _amount(text: str) -> int:
    match = AMOUNT.fullmatch(text.replace("_", ""))
    if match is None:
        raise CliError(f"{text} is not an amount.", "Write it as 500, 20k or 2M; `none` takes the limit away.")
    return int(match[1]) * SIZES[match[2]]
