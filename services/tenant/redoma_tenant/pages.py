"""Pages of this service's lists, how large they are, and where they go on."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from redoma_kit.errors import InvalidField
from redoma_kit.pages import Position, page_position, page_size, page_token
from redoma_tenant.moments import micros_of, time_of

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and the token of the next part; an empty token ends the list."""

    items: Sequence[T]
    next_page_token: str


class HasId(Protocol):
    """Something that lists are in the order of."""

    @property
    def id(self) -> str:
        """Its id."""


@dataclass(frozen=True, slots=True)
class TimePlace:
    """A place in a list that is in the order of times and, at the same time, of ids."""

    time: datetime
    id: str


H = TypeVar("H", bound=HasId)


async def read_page(
    same: Sequence[str],
    requested: int,
    token: str,
    kinds: Sequence[type],
    read: Callable[[Position | None, int], Awaitable[Sequence[T]]],
    place_of: Callable[[T], Position],
) -> Page[T]:
    """Gives a page of what `read` gives after a position, at most so many.

    `same` is what must stay the same between pages, `kinds` of what a position is made, `place_of` that of an item.

    Raises:
        InvalidField: The size or the token can't be used.
    """
    size = page_size(requested, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    found = await read(page_position(token, same, kinds), size + 1)
    more = len(found) > size
    return Page(found[:size], page_token(same, place_of(found[size - 1])) if more else "")


async def read_page_by_id(
    same: Sequence[str],
    requested: int,
    token: str,
    read: Callable[[str | None, int], Awaitable[Sequence[H]]],
) -> Page[H]:
    """Gives a page of a list in the order of ids; `read` takes the last id of the page before. See `read_page`."""

    async def after(position: Position | None, limit: int) -> Sequence[H]:
        return await read(None if position is None else str(position[0]), limit)

    return await read_page(same, requested, token, (str,), after, lambda item: (item.id,))


async def read_page_by_time(
    same: Sequence[str],
    requested: int,
    token: str,
    read: Callable[[TimePlace | None, int], Awaitable[Sequence[H]]],
    time_of_item: Callable[[H], datetime],
) -> Page[H]:
    """Gives a page of a list in the order of times; `read` takes where the page before ended. See `read_page`."""

    async def after(position: Position | None, limit: int) -> Sequence[H]:
        place = None if position is None else TimePlace(time_in_page(position[0]), str(position[1]))
        return await read(place, limit)

    return await read_page(
        same, requested, token, (int, str), after, lambda item: (micros_of(time_of_item(item)), item.id)
    )


def time_in_page(micros: int | str) -> datetime:
    """Gives the time in a page token's position.

    Raises:
        InvalidField: It is no time that a database keeps.
    """
    try:
        return time_of(int(micros))
    except OverflowError:
        raise InvalidField("page_token", "is out of range; begin again without it.") from None
