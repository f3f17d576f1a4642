"""What the tenant service holds of a tenant or of one principal of it, row by row, for exports."""

from collections.abc import AsyncGenerator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, false, literal, or_, select, true, tuple_

from redoma_kit.database import Database, Scope
from redoma_tenant.names import tenant_name
from redoma_tenant.privacy.archive import Record
from redoma_tenant.privacy.erasures import Subject
from redoma_tenant.store.erasures import check_subject
from redoma_tenant.store.schema import (
    API_KEYS,
    AUDIT_ENTRIES,
    LEDGER_ENTRIES,
    LEDGER_TRANSACTIONS,
    TENANTS,
    USAGE_HOURS,
    USERS,
)

ROWS_A_QUERY = 500
# What could be used to call, or to guess.
SECRET = frozenset({"digest"})


class SqlHoldings:
    """Reads tables in pages by their primary keys, each page in a transaction of its own."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, subject: Subject) -> None:
        """Raises ResourceNotFound if the tenant or the principal is missing."""
        async with self._database.transaction(Scope.of(subject.tenant)) as session:
            await check_subject(session, subject)

    async def tenant(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the tenant's settings; nothing for a principal."""
        wanted = false() if subject.principal else TENANTS.c.id == subject.tenant
        async for record in self._rows(TENANTS, wanted, subject):
            yield record

    async def users(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives users."""
        async for record in self._rows(USERS, _is(USERS, "users", "id", subject), subject):
            yield record

    async def api_keys(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives API keys, without what could be used to call."""
        async for record in self._rows(API_KEYS, _filed_under(API_KEYS, "id", subject), subject):
            yield record

    async def usage(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives what was used, by the hour."""
        async for record in self._rows(USAGE_HOURS, _filed_under(USAGE_HOURS, "api_key_id", subject), subject):
            yield record

    async def ledger(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the ledger's transactions with their entries."""
        columns = LEDGER_TRANSACTIONS.c
        wanted = _filed_under(LEDGER_TRANSACTIONS, "api_key_id", subject)
        pages = self._pages(LEDGER_TRANSACTIONS, and_(wanted, columns.tenant_id == subject.tenant), subject)
        async for page in pages:
            entries = await self._entries(subject, [row["id"] for row in page])
            for row in page:
                yield {**row, "entries": entries.get(row["id"], [])}

    async def audit(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the audit trail: the tenant's chain, or what a principal did."""
        did = AUDIT_ENTRIES.c.actor == subject.principal if subject.principal else true()
        async for record in self._rows(AUDIT_ENTRIES, did, subject):
            yield record

    async def _rows(self, table: Table, wanted: ColumnElement[bool], subject: Subject) -> AsyncGenerator[Record, None]:
        owner = TENANTS.c.id if table is TENANTS else table.c.tenant_id
        async for page in self._pages(table, and_(owner == subject.tenant, wanted), subject):
            for row in page:
                yield row

    async def _pages(
        self, table: Table, wanted: ColumnElement[bool], subject: Subject
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        key = list(table.primary_key)
        query = select(table).where(wanted).order_by(*key).limit(ROWS_A_QUERY)
        page = query
        while True:
            async with self._database.transaction(Scope.of(subject.tenant)) as session:
                rows = [dict(row) for row in (await session.execute(page)).mappings()]
            if not rows:
                return
            last = tuple_(*(literal(rows[-1][column.name], column.type) for column in key))
            yield [_plain(row) for row in rows]
            if len(rows) < ROWS_A_QUERY:
                return
            page = query.where(tuple_(*key) > last)

    async def _entries(self, subject: Subject, transactions: list[str]) -> dict[str, list[dict[str, Any]]]:
        columns = LEDGER_ENTRIES.c
        query = (
            select(columns.transaction_id, columns.account, columns.unit, columns.amount)
            .where(columns.tenant_id == subject.tenant, columns.transaction_id.in_(transactions))
            .order_by(columns.transaction_id, columns.line)
        )
        async with self._database.transaction(Scope.of(subject.tenant)) as session:
            rows = [dict(row) for row in (await session.execute(query)).mappings()]
        return {
            transaction: [{name: row[name] for name in ("account", "unit", "amount")} for row in lines]
            for transaction, lines in groupby(rows, itemgetter("transaction_id"))
        }


def _filed_under(table: Table, key_column: str, subject: Subject) -> ColumnElement[bool]:
    """Says which rows of a table that knows keys and users are the subject's."""
    return or_(_is(table, "apiKeys", key_column, subject), _is(table, "users", "user_id", subject))


def _is(table: Table, kind: str, column: str, subject: Subject) -> ColumnElement[bool]:
    if not subject.principal:
        return true()
    found, _, last = subject.principal.removeprefix(tenant_name(subject.tenant) + "/").partition("/")
    return table.c[column] == last if found == kind else false()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name not in SECRET
    }
