"""Pages of this service's lists, and how large they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the token of the next part; an empty token ends the list."""

    items: Sequence[T]
    next_page_token: str
