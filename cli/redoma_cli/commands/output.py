"""How answers are written down for a person or a program."""

import json
from collections.abc import Container, Iterable, Sequence
from datetime import UTC

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.table import Table


def print_json(content: Message | Sequence[Message]) -> None:
    """Prints a message, or a list of them, as JSON with the contract's own field names."""
    if isinstance(content, Message):
        value: object = MessageToDict(content, preserving_proto_field_name=True)
    else:
        value = [MessageToDict(item, preserving_proto_field_name=True) for item in content]
    print(json.dumps(value, indent=2, ensure_ascii=False))


def list_table(columns: Iterable[str], right: Container[str] = (), whole: Container[str] = ()) -> Table:
    """Gives an empty table of many things; columns in `right` hold numbers, those in `whole` are never wrapped."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column in whole, overflow="fold"
        )
    return table


def settings_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Gives a table of one thing, a name and a value to a row; what is empty is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows:
        if value:
            table.add_row(name, escape(value))
    return table


def short_name(resource: str) -> str:
    """Gives the last part of a resource name."""
    return resource.rsplit("/", 1)[-1]


def short_time(moment: Timestamp) -> str:
    """Gives a moment in local time to the minute; empty when it is unset."""
    if not moment.seconds:
        return ""
    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
