"""Times on the wire."""

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from redoma_kit.errors import InvalidField


def timestamp(time: datetime | None) -> Timestamp | None:
    """Gives a time as protobuf has it."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration(length: timedelta) -> Duration:
    """Gives a length of time as protobuf has it."""
    message = Duration()
    message.FromTimedelta(length)
    return message


def duration_in(field: str, message: Duration) -> timedelta:
    """Gives the length of time in a request's field.

    Raises:
        InvalidField: It is longer than 10,000 years, or its nanoseconds are out of range.
    """
    try:
        return timedelta(microseconds=message.ToMicroseconds())
    except (ValueError, OverflowError):
        raise InvalidField(field, "is not a length of time of less than 10,000 years.") from None
