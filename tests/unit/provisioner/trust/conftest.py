"""An authority, a clock, and an up-to-date database of each kind."""

import asyncio
import shutil
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


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite with the schema and no rows, to copy."""
    file = tmp_path_factory.mktemp("migrated") / "provisioner.db"

    async def upgrade() -> None:
        database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger(), SCHEMA)
        await database.upgrade(MIGRATIONS)
        await database.close()

    asyncio.run(upgrade())
    return file


@pytest.fixture(params=BACKENDS)
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the schema and no rows."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path)
        yield f"sqlite+aiosqlite:///{file}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """An empty database with the schema, on SQLite and on PostgreSQL."""
    database = Database(migrated_url, structlog.get_logger(), SCHEMA)
    yield database
    await database.close()
