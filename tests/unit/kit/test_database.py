"""The database's own failures reach callers as neutral words, and transactions are whole or nothing."""

import sqlite3
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from redoma_kit.database import Database
from redoma_kit.errors import StorageUnavailable


async def test_failed_body_rolls_back(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction() as session:
        await session.execute(text("create table t (x integer)"))
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction() as session:
            await session.execute(text("insert into t values (1)"))
            raise ValueError("stop")
    async with database.transaction() as session:
        assert (await session.execute(text("select count(*) from t"))).scalar_one() == 0
    await database.close()


async def test_locked_database_says_nothing_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redoma_kit.database.BUSY_TIMEOUT_MS", 1)
    file = tmp_path / "a.db"
    database = Database(f"sqlite+aiosqlite:///{file}", structlog.get_logger())
    async with database.transaction() as session:
        await session.execute(text("create table t (x text)"))
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("begin exclusive")
    with capture_logs() as logs, pytest.raises(StorageUnavailable) as caught:
        async with database.transaction() as session:
            await session.execute(text("insert into t values (:x)"), {"x": "what the person said"})
    holder.close()
    await database.close()
    assert "locked" not in caught.value.message
    assert any("locked" in entry["cause"] for entry in logs)
    assert "what the person said" not in str(logs)


async def test_missing_folder_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/absent/a.db", structlog.get_logger())
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as session:
            await session.execute(text("select 1"))
    await database.close()


async def test_damaged_file_is_unavailable_not_a_defect(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database" * 1_000)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    with pytest.raises(StorageUnavailable):
        async with database.transaction() as session:
            await session.execute(text("select 1"))
    await database.close()


async def test_broken_constraint_reaches_the_store(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/a.db", structlog.get_logger())
    async with database.transaction() as session:
        await session.execute(text("create table t (x integer unique)"))
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await session.execute(text("insert into t values (1), (1)"))
    await database.close()
