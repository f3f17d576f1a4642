"""Durations as people write them."""

from datetime import timedelta

from redoma_cli.errors import CliError

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_duration(text: str) -> timedelta:
    """Reads a duration such as 90m, 12h, 30d or 8w.

    Raises:
        CliError: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not number.isascii() or not number.isdigit() or not 0 < int(number) <= 100_000:
        raise CliError(f"{text} is not a duration.", "Write it as 90m, 12h, 30d or 8w.")
    return timedelta(seconds=int(number) * UNITS_S[unit])


def duration_text(length: timedelta) -> str:
    """Gives a duration in the greatest unit up to days that tells it whole, such as 90m or 30d."""
    seconds = int(length.total_seconds())
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % UNITS_S[unit] == 0)
    return f"{seconds // UNITS_S[unit]}{unit}"


def short_duration(seconds: float) -> str:
    """Gives a duration to its first two units, such as 3 h 12 min."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
