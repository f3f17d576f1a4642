"""An authority, a clock, and an up-to-date database of each kind."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from redoma_kit.database import Database
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.trust.authority import Authority
from tests.fakes.postgres import BACKENDS, PostgresServer
from tests.fakes.trust_parties import MovedClock, make_authority


@pytest.fixture
def clock() -> MovedClock:
    """The machine's time, until a test moves it."""
    return MovedClock()


@pytest.fixture
def authority(tmp_path: Path, clock: MovedClock) -> Authority:
    """An authority of its own for each test."""
    return make_authority(tmp_path / "authority", clock)


@pytest.fixture(params=BACKENDS)
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database, whose schema is up to date on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/provisioner.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """An empty database with the schema, on SQLite and on PostgreSQL."""
    database = Database(migrated_url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    yield database
    await database.close()
