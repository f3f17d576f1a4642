"""Which fields of a resource a request changes."""

from collections.abc import Iterable, Set
from typing import TypeVar

from google.protobuf.message import Message

from redoma_kit.errors import InvalidField

EVERYTHING = "*"

M = TypeVar("M", bound=Message)


def masked(message: Message, paths: Iterable[str], maskable: Set[str]) -> Set[str]:
    """Gives the names among `maskable` that a mask's paths name; those that `message` has set if it names none.

    Raises:
        InvalidField: The mask names anything else.
    """
    names = set(paths)
    if names - maskable - {EVERYTHING}:
        raise InvalidField("update_mask", f"may name {', '.join(sorted(maskable))}, or * for all of them.")
    if EVERYTHING in names:
        return maskable
    return names or {field.name for field, _ in message.ListFields()} & maskable


def only(message: M, names: Set[str]) -> M:
    """Gives a copy of `message` with the fields that `names` names, so that what is in no mask is not looked at."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.name not in names:
            copy.ClearField(field.name)
    return copy
