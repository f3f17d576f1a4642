"""On PostgreSQL a query that forgets the tenant returns no other's rows, with the policies as the only guard."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from redoma_kit.database import PLATFORM, Database
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.schema import METADATA
from tests.fakes import row_security_suite as suite
from tests.fakes.guarded_tables import Guarded, Schema, guarded
from tests.fakes.postgres import PostgresServer

TENANT = Schema(SCHEMA, METADATA, MIGRATIONS, shared=frozenset({"plans", "prices"}))
APPEND_ONLY = ("ledger_entries", "ledger_transactions", "audit_entries")
# What app, auth and platform may do: Select, Insert, Update, Delete. A table that is not here fails the test.
GRANTS = {
    "tenants": ("SU", "S", "SIUD"),
    "users": ("SIUD", "S", "SIUD"),
    "api_keys": ("SIUD", "S", "SIUD"),
    "identity_providers": ("SIUD", "S", "SIUD"),
    "changes": ("SI", "S", "SIUD"),
    "plans": ("S", "S", "SIUD"),
    "prices": ("S", "", "SIUD"),
    "quota_counters": ("SIUD", "", "SIUD"),
    "reservations": ("SIUD", "", "SIUD"),
    "usage_hours": ("SIUD", "", "SIUD"),
    "ledger_transactions": ("SI", "", "SI"),
    "ledger_entries": ("SI", "", "SI"),
    "audit_heads": ("S", "", "SIUD"),
    "audit_entries": ("S", "", "SI"),
    "audit_begun": ("S", "", "SIUD"),
    "erasures": ("SIU", "", "SIUD"),
}


@pytest.fixture
async def tables(postgres_server: PostgresServer) -> AsyncIterator[Guarded]:
    """The schema with rows of two tenants."""
    async with guarded(postgres_server, TENANT) as made:
        yield made


def test_every_table_has_its_grants_thought_through() -> None:
    assert GRANTS.keys() == METADATA.tables.keys()


async def test_every_table_is_guarded(tables: Guarded) -> None:
    await suite.check_catalogue(tables, GRANTS)


async def test_the_roles_are_no_more_than_that(tables: Guarded) -> None:
    await suite.check_roles(tables)


async def test_a_query_that_forgets_the_tenant_returns_no_others_rows(tables: Guarded) -> None:
    await suite.check_a_tenant_has_its_own_rows_only(tables)


async def test_a_change_that_forgets_the_tenant_reaches_no_others_rows(tables: Guarded) -> None:
    await suite.check_changes_reach_no_other_tenants_rows(tables)


async def test_a_lookup_of_credentials_reads_only_what_it_needs(tables: Guarded) -> None:
    await suite.check_auth_only_reads(tables, GRANTS)


async def test_operators_see_all(tables: Guarded) -> None:
    await suite.check_platform_sees_all(tables)


async def test_the_books_refuse_changes_whoever_makes_them(tables: Guarded) -> None:
    for name in APPEND_ONLY:
        for change in (f"UPDATE {name} SET tenant_id = 'x'", f"DELETE FROM {name}", f"TRUNCATE {name} CASCADE"):
            with pytest.raises(DBAPIError, match="only ever added"):
                await tables.superuser.execute(text(change))
            with pytest.raises(DBAPIError, match="permission denied"):
                async with tables.database.transaction(PLATFORM) as session:
                    await session.execute(text(change))


async def test_the_books_refuse_changes_on_sqlite_too(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/tenant.db", structlog.get_logger())
    await database.upgrade(MIGRATIONS)
    async with database.transaction(PLATFORM) as session:
        for table in METADATA.sorted_tables:
            await session.execute(insert(table).values(TENANT.row(table, "acme")))
    changes: tuple[Callable[[str], object], ...] = (
        lambda name: update(METADATA.tables[name]).values(tenant_id="x"),
        lambda name: delete(METADATA.tables[name]),
    )
    for name in APPEND_ONLY:
        for change in changes:
            with pytest.raises(IntegrityError, match="only ever added"):
                async with database.transaction(PLATFORM) as session:
                    await session.execute(change(name))  # type: ignore[call-overload]
    await database.close()
