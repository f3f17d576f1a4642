"""Lists that come in pages."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from redoma_cli.client import CALL_TIMEOUT_S

MOST_PER_PAGE = 1_000


class PageRequest(Protocol):
    """Asks for a page."""

    page_size: int
    page_token: str


class Page(Protocol):
    """A part of a list."""

    next_page_token: str


RequestT = TypeVar("RequestT", bound=PageRequest, contravariant=True)
PageT = TypeVar("PageT", bound=Page, covariant=True)
T = TypeVar("T")


class ListMethod(Protocol[RequestT, PageT]):
    """A method of a stub that lists."""

    def __call__(self, request: RequestT, timeout: float | None = None) -> PageT:
        """Gives a page."""
        ...


def pages(method: ListMethod[RequestT, PageT], request: RequestT) -> Iterator[PageT]:
    """Gives one page after the other, each when it is wanted. `request` is moved on."""
    while True:
        page = method(request, timeout=CALL_TIMEOUT_S)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def list_items(
    method: ListMethod[RequestT, PageT],
    request: RequestT,
    items: Callable[[PageT], Iterable[T]],
    most: int = sys.maxsize,
) -> list[T]:
    """Gives what `items` finds in all pages, at most `most` of it."""
    found: list[T] = []
    request.page_size = min(MOST_PER_PAGE, most)
    for page in pages(method, request):
        found += items(page)
        if len(found) >= most:
            break
        request.page_size = min(MOST_PER_PAGE, most - len(found))
    return found
