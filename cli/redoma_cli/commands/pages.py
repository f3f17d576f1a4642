"""Lists that come in pages."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

from redoma_cli.client import CALL_TIMEOUT_S

MOST_PER_PAGE = 1_000


class PageRequest(Protocol):
    """Asks for a page."""

    page_token: str


class Page(Protocol):
    """A part of a list."""

    next_page_token: str


RequestT = TypeVar("RequestT", bound=PageRequest, contravariant=True)
PageT = TypeVar("PageT", bound=Page, covariant=True)


class ListMethod(Protocol[RequestT, PageT]):
    """A method of a stub that lists."""

    def __call__(self, request: RequestT, timeout: float | None = None) -> PageT:
        """Gives a page."""
        ...


def pages(method: ListMethod[RequestT, PageT], request: RequestT) -> Iterator[PageT]:
    """Gives one page after the other, and asks for each as it is wanted. `request` is moved on."""
    while True:
        page = method(request, timeout=CALL_TIMEOUT_S)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
