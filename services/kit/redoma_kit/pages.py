"""Page tokens: where the last page ended, tied to the request that it was a page of.

A token is not signed: it holds a position only, in a list that the caller may read anyway.
"""

import base64
import hashlib
import json
from collections.abc import Sequence

from redoma_kit.errors import InvalidField

MAX_TOKEN_CHARACTERS = 1_024
Position = tuple[int | str, ...]


def page_token(request: Sequence[str], position: Position) -> str:
    """Gives the token of the page after `position`; `request` is what must stay the same between pages."""
    return base64.urlsafe_b64encode(json.dumps([_digest(request), *position]).encode()).decode().rstrip("=")


def page_position(token: str, request: Sequence[str], kinds: Sequence[type]) -> Position | None:
    """Reads the position out of a token, or None for the first page.

    Raises:
        InvalidField: The token was not made by `page_token` for the same request.
    """
    if not token:
        return None
    try:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError("too long")
        padded = token + "=" * (-len(token) % 4)
        digest, *position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if digest != _digest(request) or [type(part) for part in position] != list(kinds):
            raise ValueError("of another request")
        if not all(0 <= part < 2**63 if isinstance(part, int) else _is_text(part) for part in position):
            raise ValueError("out of range")
    except (ValueError, TypeError, RecursionError):
        raise InvalidField("page_token", "is not the next_page_token of the same list.") from None
    return tuple(position)


def _is_text(part: str) -> bool:
    """Says whether every database can be asked for it: JSON escapes a NUL, and halves of characters."""
    part.encode()
    return "\0" not in part


def _digest(request: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(request)).encode()).hexdigest()[:16]


def page_size(asked: int, default: int, most: int) -> int:
    """Gives how many to list.

    Raises:
        InvalidField: Less than none were asked for.
    """
    if asked < 0:
        raise InvalidField("page_size", "must not be negative.")
    return min(asked or default, most)
