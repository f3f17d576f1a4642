"""On PostgreSQL nobody but the platform's role sees the network, with the policies and grants as the only guard."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from redoma_kit.database import AUTH, PLATFORM, Scope
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.schema import METADATA
from tests.fakes import row_security_suite as suite
from tests.fakes.guarded_tables import TENANTS, Guarded, Schema, guarded
from tests.fakes.postgres import PostgresServer

PROVISIONER = Schema(SCHEMA, METADATA, MIGRATIONS, shared=frozenset(METADATA.tables))
# What app, auth and platform may do: Select, Insert, Update, Delete. A table that is not here fails the test.
TABLES = ("sites", "link_grants", "connectors", "certificates", "trust", "operations", "snapshots")
GRANTS = dict.fromkeys(TABLES, ("", "", "SIUD"))


@pytest.fixture
async def tables(postgres_server: PostgresServer) -> AsyncIterator[Guarded]:
    """The schema with rows in every table."""
    async with guarded(postgres_server, PROVISIONER) as made:
        yield made


def test_every_table_has_its_grants_thought_through() -> None:
    assert GRANTS.keys() == METADATA.tables.keys()


async def test_every_table_is_guarded(tables: Guarded) -> None:
    await suite.check_catalogue(tables, GRANTS)


async def test_the_roles_are_no_more_than_that(tables: Guarded) -> None:
    await suite.check_roles(tables)


async def test_no_tenant_and_no_lookup_sees_the_network(tables: Guarded) -> None:
    for table in METADATA.sorted_tables:
        for scope in (Scope.of(TENANTS[0]), AUTH):
            with pytest.raises(DBAPIError, match="permission denied"):
                async with tables.database.transaction(scope) as session:
                    await session.execute(select(table))


async def test_operators_see_all(tables: Guarded) -> None:
    async with tables.database.transaction(PLATFORM) as session:
        for table in METADATA.sorted_tables:
            assert len((await session.execute(select(table))).all()) == len(TENANTS), table.name
