"""A tenant service for each test, on a database of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from redoma_kit.database import Database
from redoma_tenant.server import MIGRATIONS, SCHEMA
from tests.conftest import TestPki
from tests.fakes.postgres import BACKENDS, PostgresServer
from tests.rpc.tenant.tenant_site import TenantSite


@pytest.fixture
async def site(pki: TestPki, tmp_path: Path) -> AsyncIterator[TenantSite]:
    """A running service with an empty database."""
    site = TenantSite(pki, tmp_path)
    await site.start()
    yield site
    await site.stop()


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A database on PostgreSQL whose schema is up to date, to copy."""
    name = postgres_server.create_database()

    async def upgrade() -> None:
        database = Database(postgres_server.url(name), structlog.get_logger(), SCHEMA)
        await database.upgrade(MIGRATIONS)
        await database.close()

    asyncio.run(upgrade())
    yield name
    postgres_server.drop_database(name)


@pytest.fixture(params=BACKENDS)
def migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database whose schema is up to date on PostgreSQL, empty for the site's own on SQLite."""
    if request.param == "sqlite":
        yield ""
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database(request.getfixturevalue("migrated_database"))
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def site_on_each(migrated_url: str, pki: TestPki, tmp_path: Path) -> AsyncIterator[TenantSite]:
    """A running service with an empty database, on SQLite and on PostgreSQL."""
    site = TenantSite(pki, tmp_path, migrated_url)
    await site.start()
    yield site
    await site.stop()
