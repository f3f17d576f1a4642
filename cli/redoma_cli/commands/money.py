"""Money as people write it, and as the services count it: in millionths."""

import re
from decimal import Decimal

from redoma_cli.errors import CliError

MICROS = 1_000_000
MONEY = re.compile(r"([0-9]+)(\.[0-9]{1,6})?", re.ASCII)


def money_micros(text: str, whole_digits: int = 6, mend: str = "Write it as 3, 0.15 or 0.000001.") -> int:
    """Reads an amount of money of at most so many digits before the point, in millionths; `mend` says how to write it.

    Raises:
        CliError: It is none.
    """
    match = MONEY.fullmatch(text)
    if match is None or len(match[1]) > whole_digits:
        raise CliError(f"{text} is not an amount of money.", mend)
    return int(Decimal(text) * MICROS)


def money_text(micros: int) -> str:
    """Gives an amount of money for people."""
    return f"{Decimal(micros) / MICROS:,f}"
