"""Days and months of UTC, by number, and times in microseconds."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)


def micros_since_epoch(time: datetime) -> int:
    """Gives a time in microseconds since the epoch."""
    return (time - EPOCH) // MICROSECOND


def time_at(micros: int) -> datetime:
    """Gives the time so many microseconds after the epoch."""
    return EPOCH + micros * MICROSECOND


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
