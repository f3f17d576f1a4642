"""Use in SQL: sums of the hours that the meter keeps, the ledger, and both added up in one statement."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Select,
    String,
    and_,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_tenant.ledger import LedgerEntry, TransactionKind, usage_account
from redoma_tenant.pages import TimePlace
from redoma_tenant.store.newest_first import newest_first
from redoma_tenant.store.schema import (
    LEDGER_ENTRIES,
    LEDGER_TRANSACTIONS,
    RESERVATIONS,
    TENANTS,
    USAGE_HOURS,
)
from redoma_tenant.usage_rows import (
    UNITS,
    Amounts,
    BookedTransaction,
    Dimension,
    Granularity,
    Reconciliation,
    RowPosition,
    Selection,
    UsageRow,
)

HOURS = USAGE_HOURS.c
COLUMNS = {
    Dimension.TENANT: HOURS.tenant_id,
    Dimension.API_KEY: HOURS.api_key_id,
    Dimension.USER: HOURS.user_id,
    Dimension.MODEL: HOURS.model,
    Dimension.ADAPTER: HOURS.adapter,
}
AMOUNTS = (HOURS.requests, *(HOURS[unit] for unit in UNITS))
TIME_FORMAT = "%Y-%m-%d %H"
# Fills up what a length of time leaves out.
FIRST_HOUR = "2000-01-01 00"
OPEN_STATES = ("OPEN", "SETTLED")
# Kinds of rows that one statement adds up.
USED, REST, SUMS, BOOKED, OPEN = "used", "rest", "sums", "booked", "open"


class TimeText(ColumnElement[str]):
    """The beginning of the text `2026-11-03 12` of an hour in UTC, which names a longer time."""

    inherit_cache = False
    type = String()

    def __init__(self, column: ColumnElement[datetime], characters: int) -> None:
        self.column = column
        self.characters = characters


@compiles(TimeText, "sqlite")
def _sqlite_time(element: TimeText, compiler: Any, **options: Any) -> str:
    return f"substr({compiler.process(element.column, **options)}, 1, {element.characters})"


@compiles(TimeText, "postgresql")
def _postgresql_time(element: TimeText, compiler: Any, **options: Any) -> str:
    form = "YYYY-MM-DD HH24"[: element.characters + (2 if element.characters > 10 else 0)]
    return f"to_char(timezone('UTC', {compiler.process(element.column, **options)}), '{form}')"


class SqlUsageStore:
    """Reads use from a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sum_up(self, selection: Selection, after: RowPosition | None, limit: int) -> Sequence[UsageRow]:
        """Gives at most `limit` rows, those after `after`."""
        query = _sums(selection, after).limit(limit)
        async with self._database.transaction(_scope(selection.tenant)) as session:
            return [_row(row, selection) for row in (await session.execute(query)).mappings()]

    async def list_transactions(
        self, tenant: str, token_id: str, after: TimePlace | None, limit: int
    ) -> Sequence[BookedTransaction]:
        """Gives at most `limit` transactions, the latest first; an empty token id is all calls."""
        columns = LEDGER_TRANSACTIONS.c
        query = select(LEDGER_TRANSACTIONS).where(columns.tenant_id == tenant)
        if token_id:
            query = query.where(columns.token_id == token_id)
        query = newest_first(query, columns.book_time, columns.id, after, limit)
        async with self._database.transaction(Scope.of(tenant)) as session:
            rows = (await session.execute(query)).mappings().all()
            entries = (await session.execute(_entries(tenant, [row["id"] for row in rows]))).mappings().all()
        by_transaction: dict[str, list[LedgerEntry]] = {}
        for entry in entries:
            line = LedgerEntry(entry["account"], entry["unit"], entry["amount"])
            by_transaction.setdefault(entry["transaction_id"], []).append(line)
        return [_transaction(row, by_transaction.get(row["id"], [])) for row in rows]

    async def reconcile(self, tenant: str) -> Reconciliation:
        """Adds up the ledger and the sums of a tenant, both of the same moment."""
        async with self._database.transaction(Scope.of(tenant)) as session:
            rows = (await session.execute(_both(tenant))).all()
        found = {(kind, unit): int(amount or 0) for kind, unit, amount in rows}
        ledger = {unit: found.get((USED, unit), 0) for unit in UNITS}
        sums = {unit: found.get((SUMS, unit), 0) for unit in UNITS}
        return Reconciliation(
            ledger=Amounts(requests=found.get((BOOKED, ""), 0), **ledger),
            sums=Amounts(requests=found.get((SUMS, "requests"), 0), **sums),
            unbalanced_transactions=found.get((REST, ""), 0),
            open_calls=found.get((OPEN, ""), 0),
        )

    async def has_tenant(self, tenant: str) -> bool:
        """Tells whether there is such a tenant."""
        async with self._database.transaction(Scope.of(tenant)) as session:
            return await session.scalar(select(TENANTS.c.id).where(TENANTS.c.id == tenant)) is not None


def _scope(tenant: str | None) -> Scope:
    return PLATFORM if tenant is None else Scope.of(tenant)


def _sums(selection: Selection, after: RowPosition | None) -> Select[Any]:
    characters = selection.granularity.value
    time: list[ColumnElement[Any]] = [TimeText(HOURS.hour, characters)] if characters else []
    keys = [*time, *(COLUMNS[one] for one in selection.dimensions)]
    names = [*("time" for _ in time), *(one.value for one in selection.dimensions)]
    start = selection.start
    query = select(
        *(key.label(name) for key, name in zip(keys, names, strict=True)),
        *(func.sum(amount).label(amount.name) for amount in AMOUNTS),
    ).having(func.count() > 0)
    if selection.tenant is not None:
        query = query.where(HOURS.tenant_id == selection.tenant)
    if after is not None:
        values = [*(_time_text(after.start, characters) for _ in time), *after.values]
        query = query.where(tuple_(*keys) > tuple_(*(literal(value) for value in values)))
        start = max(start, after.start)
    query = query.where(HOURS.hour >= start, HOURS.hour < selection.end)
    return query.group_by(*keys).order_by(*keys) if keys else query


def _time_text(time: datetime, characters: int) -> str:
    return time.astimezone(UTC).strftime(TIME_FORMAT)[:characters]


def _row(row: RowMapping, selection: Selection) -> UsageRow:
    start = selection.start
    if selection.granularity is not Granularity.TOTAL:
        text = row["time"] + FIRST_HOUR[len(row["time"]) :]
        start = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    amounts = {column.name: int(row[column.name]) for column in AMOUNTS}
    return UsageRow(start, {one: row[one.value] for one in selection.dimensions}, Amounts(**amounts))


def _entries(tenant: str, transactions: Sequence[str]) -> Select[Any]:
    columns = LEDGER_ENTRIES.c
    query = select(LEDGER_ENTRIES).where(columns.tenant_id == tenant, columns.transaction_id.in_(transactions))
    return query.order_by(columns.transaction_id, columns.line)


def _transaction(row: RowMapping, entries: Sequence[LedgerEntry]) -> BookedTransaction:
    return BookedTransaction(
        tenant=row["tenant_id"],
        id=row["id"],
        kind=TransactionKind(row["kind"]),
        token_id=row["token_id"],
        principal=row["principal"],
        model=row["model"],
        adapter=row["adapter"],
        book_time=row["book_time"],
        entries=tuple(entries),
    )


def _both(tenant: str) -> Any:
    """Gives the one statement that adds up all there is of a tenant: (kind, unit, amount)."""
    entries, calls, held = LEDGER_ENTRIES.c, LEDGER_TRANSACTIONS.c, RESERVATIONS.c
    unbalanced = (
        select(entries.transaction_id)
        .where(entries.tenant_id == tenant)
        .group_by(entries.transaction_id, entries.unit)
        .having(func.sum(entries.amount) != 0)
        .subquery()
    )
    booked = and_(calls.tenant_id == tenant, calls.kind == TransactionKind.SETTLEMENT.value)
    used = and_(entries.tenant_id == tenant, entries.account == usage_account(tenant))
    return union_all(
        select(_kind(USED), entries.unit, func.sum(entries.amount)).where(used).group_by(entries.unit),
        select(_kind(REST), _unit(""), func.count()).select_from(unbalanced),
        select(_kind(BOOKED), _unit(""), func.count()).where(booked).select_from(LEDGER_TRANSACTIONS),
        select(_kind(OPEN), _unit(""), func.count())
        .where(held.tenant_id == tenant, held.state.in_(OPEN_STATES))
        .select_from(RESERVATIONS),
        *(
            select(_kind(SUMS), _unit(column.name), func.sum(column)).where(HOURS.tenant_id == tenant)
            for column in AMOUNTS
        ),
    )


def _kind(kind: str) -> ColumnElement[str]:
    return literal_column(f"'{kind}'", String)


def _unit(unit: str) -> ColumnElement[str]:
    return literal_column(f"'{unit}'", String)
