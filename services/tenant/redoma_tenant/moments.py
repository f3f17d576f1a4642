"""Times as whole microseconds since 1970, which is what databases and page tokens hold."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def micros_of(time: datetime) -> int:
    """Gives a time in microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


def time_of(micros: int) -> datetime:
    """Gives the time that is so many microseconds since 1970, or raises OverflowError where there is none."""
    return EPOCH + micros * MICROSECOND
