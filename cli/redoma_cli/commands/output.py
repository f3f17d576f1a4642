"""How answers are written down for a person or a program."""

import json
from collections.abc import Sequence
from datetime import UTC

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def print_json(content: Message | Sequence[Message]) -> None:
    """Prints a message, or a list of them, as JSON with the contract's own field names."""
    if isinstance(content, Message):
        value: object = MessageToDict(content, preserving_proto_field_name=True)
    else:
        value = [MessageToDict(item, preserving_proto_field_name=True) for item in content]
    print(json.dumps(value, indent=2, ensure_ascii=False))


def short_name(resource: str) -> str:
    """Gives the last part of a resource name."""
    return resource.rsplit("/", 1)[-1]


def short_time(moment: Timestamp) -> str:
    """Gives a moment in local time to the minute; empty when it is unset."""
    if not moment.seconds:
        return ""
    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
