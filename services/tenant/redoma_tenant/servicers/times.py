"""Times on the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from redoma_kit.errors import InvalidField


def timestamp(time: datetime | None) -> Timestamp | None:
    """Gives a time as protobuf has it."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def time_in(field: str, message: Timestamp) -> datetime:
    """Gives the time in a request's field.

    Raises:
        InvalidField: It is outside the years 1 to 9999, or its nanoseconds are out of range.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidField(field, "is not a time between the years 1 and 9999.") from None
