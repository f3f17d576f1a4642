"""SQLite: one file, one writer, and no roles. Its statements name the tenant themselves."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from redoma_kit.database.scope import Scope
from redoma_kit.database.session import ScopedSession
from redoma_kit.database.verdict import DEFECTS, Verdict

BUSY_TIMEOUT_MS = 5_000
# SQLite writes one transaction at a time. Those that wait in the pool's queue get their turn in order; those that wait
# for the file's lock sleep and try again, until the unlucky give up. A file does not hang up, so nothing is pinged.
ONE_AT_A_TIME: Mapping[str, Any] = {"pool_size": 1, "max_overflow": 0}


class SqliteBackend:
    """A file, or memory."""

    def __init__(self, url: str) -> None:
        name = make_url(url).database
        file = None if name in (None, "", ":memory:") else Path(str(name))
        self.engine: AsyncEngine = create_async_engine(url, hide_parameters=True, **(ONE_AT_A_TIME if file else {}))
        event.listen(self.engine.sync_engine, "connect", _configure)
        event.listen(self.engine.sync_engine, "invalidate", _undo)
        if file:
            _FileWatch(file).follow(self.engine)

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """Opens a session in a transaction that commits at the end, or rolls back when the body raises."""
        async with ScopedSession(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    async def upgrade(self, migrate: Callable[[Connection], None]) -> None:
        """Runs the migrations."""
        async with self.engine.begin() as connection:
            await connection.run_sync(migrate)

    async def scrub(self, rewrite: bool) -> None:
        """Empties the write-ahead log, which holds what pages were, after rewriting the whole file if asked to."""
        async with self.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            if rewrite:
                await alone.exec_driver_sql("VACUUM")
            await alone.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def verdict(self, error: BaseException) -> Verdict:
        """Says what a failed transaction's error comes from. None passes: it has waited for the file already."""
        return Verdict.DEFECT if isinstance(error, DEFECTS) else Verdict.LASTING


class _FileWatch:
    """Notices that SQLite's file was removed or replaced while connections are open.

    They would go on writing into a file without a name, and all of it would be lost with the process.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._has_existed = False

    def follow(self, engine: AsyncEngine) -> None:
        """Watches what the engine's pool gives out."""
        event.listen(engine.sync_engine, "do_connect", self._opening)
        event.listen(engine.sync_engine, "connect", self._opened)
        event.listen(engine.sync_engine, "checkout", self._lent)

    def _identity(self) -> tuple[int, int]:
        status = self._file.stat()
        return status.st_dev, status.st_ino

    def _opening(self, *_: object) -> None:
        if self._has_existed:
            # SQLite would make an empty file in its place; raises FileNotFoundError instead.
            self._identity()

    def _opened(self, _connection: object, record: Any) -> None:
        record.info["file"] = self._identity()
        self._has_existed = True

    def _lent(self, _connection: object, record: Any, _proxy: object) -> None:
        if record.info.get("file") != self._identity():
            raise DisconnectionError("the database's file was replaced")


def _configure(connection: Any, _record: object) -> None:
    pragmas = (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        # What is erased is overwritten.
        "secure_delete=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    )
    try:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # Nobody else knows of it yet, and its thread would outlive the event loop.
        connection.close()
        raise


def _undo(connection: Any, _record: object, _error: object) -> None:
    """Rolls back what a connection that is given up was at.

    A call cancelled in the midst of a statement leaves the statement open, and with it the file's lock, also past the
    closing of its connection.
    """
    driver = connection.driver_connection
    if driver._connection is not None:
        # The driver's thread does one thing after the other, so that this comes before the closing.
        driver._tx.put_nowait((None, driver._connection.rollback))
