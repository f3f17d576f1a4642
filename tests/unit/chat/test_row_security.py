"""On PostgreSQL a query that forgets the tenant returns no other's conversations, guarded by the policies only."""

from collections.abc import AsyncIterator

import pytest

from redoma_chat.server import MIGRATIONS, SCHEMA
from redoma_chat.tables import METADATA
from tests.fakes import row_security_suite as suite
from tests.fakes.guarded_tables import Guarded, Schema, guarded
from tests.fakes.postgres import PostgresServer

CHAT = Schema(SCHEMA, METADATA, MIGRATIONS)
# What app, auth and platform may do: Select, Insert, Update, Delete. A table that is not here fails the test.
GRANTS = {
    "conversations": ("SIUD", "", "SIUD"),
    "messages": ("SIUD", "", "SIUD"),
    "settlements": ("SIUD", "", "SIUD"),
    "content_keys": ("SIUD", "", "SIUD"),
}


@pytest.fixture
async def tables(postgres_server: PostgresServer) -> AsyncIterator[Guarded]:
    """The schema with rows of two tenants."""
    async with guarded(postgres_server, CHAT) as made:
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


async def test_there_is_nothing_to_look_credentials_up_in(tables: Guarded) -> None:
    await suite.check_auth_only_reads(tables, GRANTS)


async def test_operators_see_all(tables: Guarded) -> None:
    await suite.check_platform_sees_all(tables)
