"""What was used: sums by time and by what callers ask for, the ledger's transactions, and whether the two agree."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import page_position, page_size, page_token
from redoma_tenant.ledger import LedgerEntry, TransactionKind
from redoma_tenant.names import tenant_name
from redoma_tenant.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page

DEFAULT_ROWS = 1_000
MAX_ROWS = 10_000
DEFAULT_PAST = timedelta(days=30)
HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")


class Granularity(Enum):
    """A length of time to sum up by. The value is how much of `2026-11-03 12` names one."""

    HOUR = 13
    DAY = 10
    MONTH = 7
    TOTAL = 0


class Dimension(Enum):
    """Something to sum up by."""

    TENANT = "tenant"
    API_KEY = "api_key"
    USER = "user"
    MODEL = "model"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to sum up, and how.

    Attributes:
        tenant: Id of the tenant; None is all.
        start: From this hour on.
        end: Before this hour.
        granularity: By which lengths of time.
        dimensions: By what else, in the order of Dimension.
    """

    tenant: str | None
    start: datetime
    end: datetime
    granularity: Granularity
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Amounts:
    """Sums. `cost_nanos` is in billionths of the currency."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What was used in one time by one of each dimension; `values` are the ids, empty for none."""

    start: datetime
    values: Mapping[Dimension, str]
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class RowPosition:
    """A place in the order of rows: when their time begins, then the dimensions' values."""

    start: datetime
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BookedTransaction:
    """A transaction of the ledger as it is kept."""

    tenant: str
    id: str
    kind: TransactionKind
    token_id: str
    principal: str
    model: str
    adapter: str
    book_time: datetime
    entries: tuple[LedgerEntry, ...]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The ledger and the sums, added up at the same moment."""

    ledger: Amounts
    sums: Amounts
    unbalanced_transactions: int
    open_calls: int

    @property
    def balanced(self) -> bool:
        """Whether both sides of each amount add up to zero, and the ledger and the sums are the same."""
        return self.unbalanced_transactions == 0 and self.ledger == self.sums


class UsageStore(Protocol):
    """Where use is kept. Every call may raise StorageUnavailable."""

    async def sum_up(self, selection: Selection, after: RowPosition | None, limit: int) -> Sequence[UsageRow]:
        """Gives at most `limit` rows, those after `after`."""

    async def list_transactions(
        self, tenant: str, token_id: str, after: tuple[datetime, str] | None, limit: int
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
        times = (_micros(selection.start), _micros(selection.end), _micros(last.start))
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
        size = page_size(requested, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        request = (f"{tenant_name(tenant)}/ledgerTransactions", token_id)
        position = page_position(token, request, (int, str))
        after = None if position is None else (_time(position[0]), str(position[1]))
        found = await self._store.list_transactions(tenant, token_id, after, size + 1)
        if not found:
            await self._check_tenant(tenant)
        if len(found) <= size:
            return Page(found, "")
        last = found[size - 1]
        return Page(found[:size], page_token(request, (_micros(last.book_time), last.id)))

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
    times = replace(selection, start=_time(start), end=_time(end))
    return times, RowPosition(_time(last), tuple(str(value) for value in values))


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


def _micros(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def _time(micros: int | str) -> datetime:
    try:
        return EPOCH + int(micros) * MICROSECOND
    except OverflowError:
        raise InvalidField("page_token", "is out of range; begin again without it.") from None
