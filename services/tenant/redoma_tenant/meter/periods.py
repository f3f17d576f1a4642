"""Days and months of UTC, by number."""

from datetime import UTC, datetime, timedelta

from redoma_tenant.moments import EPOCH

DAY = timedelta(days=1)


def day_of(time: datetime) -> int:
    """Gives the number of the day since the epoch."""
    return (time - EPOCH) // DAY


def month_of(time: datetime) -> int:
    """Gives the number of the month since the year 0."""
    there = time.astimezone(UTC)
    return there.year * 12 + there.month - 1


def day_end(time: datetime) -> datetime:
    """Gives when the day ends."""
    return EPOCH + (day_of(time) + 1) * DAY


def month_end(time: datetime) -> datetime:
    """Gives when the month ends."""
    year, month = divmod(month_of(time) + 1, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def hour_of(time: datetime) -> datetime:
    """Gives when the hour began."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
