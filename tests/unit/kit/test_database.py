"""The database's own failures reach callers as neutral words, and transactions are whole or nothing."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import StorageUnavailable


async def test_failed_body_rolls_back(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x integer)"))
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("insert into t values (1)"))
            raise ValueError("stop")
    async with database.transaction(PLATFORM) as session:
        assert (await session.execute(text("select count(*) from t"))).scalar_one() == 0
    await database.close()


async def test_locked_database_says_nothing_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redoma_kit.database.sqlite.BUSY_TIMEOUT_MS", 1)
    file = tmp_path / "a.db"
    database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x text)"))
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("begin exclusive")
    with capture_logs() as logs, pytest.raises(StorageUnavailable) as caught:
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("insert into t values (:x)"), {"x": "what the person said"})
    holder.close()
    await database.close()
    assert "locked" not in caught.value.message
    assert any("locked" in entry["cause"] for entry in logs)
    assert "what the person said" not in str(logs)


async def test_missing_folder_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/absent/a.db", structlog.get_logger())
    with pytest.raises(StorageUnavailable):
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("select 1"))
    await database.close()


async def test_damaged_file_is_unavailable_not_a_defect(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database" * 1_000)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    with pytest.raises(StorageUnavailable):
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("select 1"))
    await database.close()


async def test_broken_constraint_reaches_the_store(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x integer unique)"))
    with pytest.raises(IntegrityError):
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("insert into t values (1), (1)"))
    await database.close()


async def test_removed_file_is_unavailable_until_it_is_back_and_nothing_goes_into_the_void(tmp_path: Path) -> None:
    file, away = tmp_path / "a.db", tmp_path / "away.db"
    database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x integer)"))
    with sqlite3.connect(file) as checkpointed:
        checkpointed.execute("pragma wal_checkpoint(truncate)")
    checkpointed.close()
    file.rename(away)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            async with database.transaction(PLATFORM) as session:
                await session.execute(text("insert into t values (1)"))
    assert not file.exists()
    away.rename(file)
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("insert into t values (2)"))
    await database.close()
    with sqlite3.connect(file) as reader:
        assert reader.execute("select x from t").fetchall() == [(2,)]
    reader.close()


async def test_replaced_file_is_the_one_that_is_used(tmp_path: Path) -> None:
    file, backup = tmp_path / "a.db", tmp_path / "backup.db"
    for name, number in ((file, 1), (backup, 2)):
        with sqlite3.connect(name) as writer:
            writer.execute("create table t (x integer)")
            writer.execute(f"insert into t values ({number})")
        writer.close()
    database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        assert (await session.execute(text("select x from t"))).scalar_one() == 1
    backup.rename(file)
    async with database.transaction(PLATFORM) as session:
        assert (await session.execute(text("select x from t"))).scalar_one() == 2
    await database.close()


async def test_many_writers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None may give up because others hold the file's lock."""
    monkeypatch.setattr("redoma_kit.database.sqlite.BUSY_TIMEOUT_MS", 0)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x integer)"))

    async def write(value: int) -> None:
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("insert into t values (:x)"), {"x": value})

    await asyncio.gather(*map(write, range(64)))
    async with database.transaction(PLATFORM) as session:
        assert (await session.execute(text("select count(*) from t"))).scalar_one() == 64
    await database.close()


async def test_what_is_deleted_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x text)"))
        await session.execute(text("insert into t values ('what was said')"))
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("delete from t"))
    await database.close()
    assert b"what was said" not in file.read_bytes()


async def test_work_is_done_once_and_a_failure_of_it_is_its_own(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())

    async def work(session: AsyncSession) -> int:
        await session.execute(text("create table t (x integer unique)"))
        await session.execute(text("insert into t values (1)"))
        return 7

    assert await database.run(PLATFORM, work) == 7
    with pytest.raises(IntegrityError):
        await database.run(PLATFORM, lambda session: session.execute(text("insert into t values (1)")))
    async with database.transaction(PLATFORM) as session:
        assert (await session.execute(text("select count(*) from t"))).scalar_one() == 1
    await database.close()


async def test_cancelled_write_does_not_keep_the_file_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redoma_kit.database.sqlite.BUSY_TIMEOUT_MS", 1_000)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction(PLATFORM) as session:
        await session.execute(text("create table t (x integer)"))

    async def write(session: AsyncSession) -> None:
        await session.scalar(text("select 1"))
        await session.execute(text("insert into t values (1) returning x"))
        await session.execute(text("update t set x = 2"))

    # Each is cancelled a little later than the one before: somewhere within its statements, and some after them.
    for turns in range(60):
        task = asyncio.create_task(database.run(PLATFORM, write))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with database.transaction(PLATFORM) as session:
            await session.execute(text("insert into t values (3)"))
    await database.close()
