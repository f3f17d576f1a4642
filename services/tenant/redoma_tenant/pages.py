"""Pages of a list: their size, and tokens that say where the next one begins.

A token is not signed: it holds a position only, and the list it continues is the one the caller may read anyway. It is
checked for form and for the list it came from.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from redoma_kit.errors import InvalidField

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
MAX_TOKEN = 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the token of the next part; an empty token ends the list."""

    items: Sequence[T]
    next_page_token: str


def page_size(requested: int) -> int:
    """Gives the number of items to list.

    Raises:
        InvalidField: `requested` is negative.
    """
    if requested < 0:
        raise InvalidField("page_size", "must not be negative.")
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(collection: str, position: str) -> str:
    """Gives the token for what follows `position` in `collection`."""
    content = json.dumps([collection, position], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_token(collection: str, token: str) -> str | None:
    """Gives the position that a token of `collection` holds; None for an empty token.

    Raises:
        InvalidField: The token was not made by `encode_token` for this collection.
    """
    if not token:
        return None
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        padded = token + "=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise bad_token() from None
    if (
        not isinstance(content, list)
        or len(content) != 2
        or content[0] != collection
        or not isinstance(content[1], str)
    ):
        raise bad_token()
    return content[1]


def bad_token() -> InvalidField:
    """Gives the error for a token that this list did not give out."""
    return InvalidField("page_token", "is not one that this list gave out; begin again without it.")
