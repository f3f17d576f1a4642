"""The last snapshots of each Envoy, on each kind of database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from redoma_kit.database import Database
from redoma_provisioner.edge.record import SnapshotRecord
from redoma_provisioner.edge.snapshot import CLUSTER, Snapshot
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.snapshots import KEPT, SqlSnapshotStore
from tests.fakes.postgres import BACKENDS, PostgresServer
from tests.unit.provisioner.edge.sites import an_edge, an_egress, busy

START = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/provisioner.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlSnapshotStore]:
    """An empty store."""
    database = Database(url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    yield SqlSnapshotStore(database)
    await database.close()


def numbered(number: int) -> tuple[SnapshotRecord, Snapshot]:
    """Gives a small snapshot that differs from those with other numbers."""
    snapshot = Snapshot({CLUSTER: {"c": {"name": f"c{number}"}}})
    record = SnapshotRecord(
        snapshot.version, START + timedelta(seconds=number), f"cause {number}", ("cluster c changed",)
    )
    return record, snapshot


async def test_what_is_kept_comes_back_as_it_was(store: SqlSnapshotStore) -> None:
    assert await store.newest("egress") is None
    for snapshot in (an_egress(busy()), an_edge()):
        record = SnapshotRecord(snapshot.version, START, "site hospital-a joined", ("cluster models added",))
        await store.add("egress", record, snapshot)
        kept = await store.newest("egress")
        assert kept is not None
        assert kept[0] == record
        assert kept[1].version == snapshot.version
    assert await store.newest("edge") is None
    found = await store.find("egress", an_egress(busy()).version)
    assert found is not None
    assert found[1].resources == an_egress(busy()).resources
    assert await store.find("egress", "0" * 32) is None


async def test_last_ones_are_kept_and_no_more(store: SqlSnapshotStore) -> None:
    for number in range(KEPT + 5):
        await store.add("egress", *numbered(number))
    await store.add("edge", *numbered(0))
    records = await store.list_records("egress")
    assert [record.cause for record in records] == [f"cause {number}" for number in reversed(range(5, KEPT + 5))]
    assert len(await store.list_records("edge")) == 1


async def test_newest_is_not_kept_twice_and_an_older_one_is(store: SqlSnapshotStore) -> None:
    for number in (1, 1, 2, 2, 1):
        await store.add("egress", *numbered(number))
    assert [record.cause for record in await store.list_records("egress")] == ["cause 1", "cause 2", "cause 1"]


async def test_processes_that_keep_the_same_at_once_keep_it_once(store: SqlSnapshotStore) -> None:
    await store.add("egress", *numbered(0))
    await asyncio.gather(*(store.add("egress", *numbered(1)) for _ in range(5)))
    assert [record.cause for record in await store.list_records("egress")] == ["cause 1", "cause 0"]
