"""What was used, as callers ask for it: sums by time and more, the ledger's transactions, and whether the two agree."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import page_position, page_size, page_token
from redoma_tenant.moments import EPOCH, micros_of
from redoma_tenant.names import tenant_name
from redoma_tenant.pages import Page, TimePlace, read_page_by_time, time_in_page
from redoma_tenant.usage_rows import (
    Amounts,
    BookedTransaction,
    Dimension,
    Granularity,
    Reconciliation,
    RowPosition,
    Selection,
    UsageRow,
)

DEFAULT_ROWS = 1_000
MAX_ROWS = 10_000
DEFAULT_PAST = timedelta(days=30)
HOUR = timedelta(hours=1)


class UsageStore(Protocol):
    """Where use is kept. Every call may raise StorageUnavailable."""

    async def sum_up(self, selection: Selection, after: RowPosition | None, limit: int) -> Sequence[UsageRow]:
        """Gives at most `limit` rows, those after `after`."""

    async def list_transactions(
        self, tenant: str, token_id: str, after: TimePlace | None, limit: int
    ) -> Sequence[BookedTransaction]:
        """Gives at most `limit` transactions, the latest first; an empty token id is all calls."""

    async def reconcile(self, tenant: str) -> Reconciliation:
        """Adds up the ledger and the sums of a tenant, both of the same moment."""

    async def has_tenant(self, tenant: str) -> bool:
        """Tells whether there is such a tenant."""


class UsageBook:
    """Use as callers ask for it."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: UsageStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def selection(
        self,
        tenant: str | None,
        start: datetime | None,
        end: datetime | None,
        granularity: Granularity,
        dimensions: Sequence[Dimension],
    ) -> Selection:
        """Gives a selection to the hour with defaults filled in.

        Raises:
            InvalidField: The time ends before it begins.
        """
        now = self._now()
        begin, until = max(EPOCH, _hour(start or _past(end or now))), max(EPOCH, _next_hour(end or now))
        if begin > until:
            raise InvalidField("selection.end_time", "must not lie before start_time.")
        wanted = set(dimensions)
        if tenant is None and wanted & {Dimension.API_KEY, Dimension.USER}:
            # Keys and users are of a tenant, which their names tell.
            wanted.add(Dimension.TENANT)
        return Selection(tenant, begin, until, granularity, tuple(one for one in Dimension if one in wanted))

    async def query(self, selection: Selection, requested: int, token: str, asked: Sequence[str]) -> Page[UsageRow]:
        """Gives a page of rows in the order of time; `asked` is what the caller asked for, times as given.

        Raises:
            InvalidField: The size or the token can't be used.
            ResourceNotFound: There is no such tenant.
        """
        size = page_size(requested, DEFAULT_ROWS, MAX_ROWS)
        selection, after = _continued(selection, token, asked)
        found = await self._store.sum_up(selection, after, size + 1)
        if not found:
            await self._check_tenant(selection.tenant)
        if len(found) <= size:
            return Page(found, "")
        last = _position(found[size - 1], selection)
        times = (micros_of(selection.start), micros_of(selection.end), micros_of(last.start))
        return Page(found[:size], page_token(asked, (*times, *last.values)))

    async def read(self, selection: Selection) -> AsyncIterator[Sequence[UsageRow]]:
        """Gives all rows in batches.

        Raises:
            ResourceNotFound: There is no such tenant.
        """
        await self._check_tenant(selection.tenant)
        after: RowPosition | None = None
        while rows := await self._store.sum_up(selection, after, DEFAULT_ROWS):
            yield rows
            after = _position(rows[-1], selection)

    async def list_transactions(
        self, tenant: str, token_id: str, requested: int, token: str
    ) -> Page[BookedTransaction]:
        """Gives a page of transactions, the latest first.

        Raises:
            InvalidField: The size or the token can't be used.
            ResourceNotFound: There is no such tenant.
        """
        page = await read_page_by_time(
            (f"{tenant_name(tenant)}/ledgerTransactions", token_id),
            requested,
            token,
            lambda after, limit: self._store.list_transactions(tenant, token_id, after, limit),
            lambda transaction: transaction.book_time,
        )
        if not page.items:
            await self._check_tenant(tenant)
        return page

    async def reconcile(self, tenant: str) -> Reconciliation:
        """Compares the ledger with the sums.

        Raises:
            ResourceNotFound: There is no such tenant, and nothing is kept of one.
        """
        found = await self._store.reconcile(tenant)
        if found.ledger == found.sums == Amounts():
            await self._check_tenant(tenant)
        return found

    async def _check_tenant(self, tenant: str | None) -> None:
        if tenant is not None and not await self._store.has_tenant(tenant):
            raise ResourceNotFound(tenant_name(tenant))


def _continued(selection: Selection, token: str, asked: Sequence[str]) -> tuple[Selection, RowPosition | None]:
    """Gives the selection with the times of the first page, and where the last page ended."""
    kinds = (int, int, int, *(str for _ in selection.dimensions))
    position = page_position(token, asked, kinds)
    if position is None:
        return selection, None
    start, end, last, *values = position
    times = replace(selection, start=time_in_page(start), end=time_in_page(end))
    return times, RowPosition(time_in_page(last), tuple(str(value) for value in values))


def _position(row: UsageRow, selection: Selection) -> RowPosition:
    return RowPosition(row.start, tuple(row.values[one] for one in selection.dimensions))


def _hour(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _next_hour(time: datetime) -> datetime:
    hour = _hour(time)
    try:
        return hour if hour == time else hour + HOUR
    except OverflowError:
        raise InvalidField("selection.end_time", "is too late.") from None


def _past(time: datetime) -> datetime:
    try:
        return time - DEFAULT_PAST
    except OverflowError:
        raise InvalidField("selection.end_time", "is too early.") from None
