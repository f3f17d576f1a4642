"""A public provisioner's network for each test, on a database of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from tests.conftest import TestPki
from tests.fakes.postgres import BACKENDS, PostgresServer
from tests.rpc.provisioner.network_site import NetworkSite


@pytest.fixture
async def network(pki: TestPki, tmp_path: Path) -> AsyncIterator[NetworkSite]:
    """A running service with an empty network."""
    site = NetworkSite(pki, tmp_path)
    await site.start()
    yield site
    await site.close()


@pytest.fixture(params=BACKENDS)
def migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database whose schema is up to date on PostgreSQL, empty for the service's own on SQLite."""
    if request.param == "sqlite":
        yield ""
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def network_on_each(migrated_url: str, pki: TestPki, tmp_path: Path) -> AsyncIterator[NetworkSite]:
    """A running service with an empty network, on SQLite and on PostgreSQL."""
    site = NetworkSite(pki, tmp_path, migrated_url)
    await site.start()
    yield site
    await site.close()
