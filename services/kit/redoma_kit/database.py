"""A service's database: one asynchronous engine, transactions, and its schema brought up to date by Alembic."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from redoma_kit.errors import StorageUnavailable

BUSY_TIMEOUT_MS = 5_000


class Database:
    """An engine and its sessions.

    A failure of the database itself (no connection, locked, full, damaged) becomes StorageUnavailable with neutral
    words; the driver's text goes to the log. Statements' parameters are in neither.
    """

    def __init__(self, url: str, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._engine = create_async_engine(url, hide_parameters=True, pool_pre_ping=True)
        if make_url(url).get_backend_name() == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _configure_sqlite)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""
        return self._engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Opens a session in a transaction that commits at the end, or rolls back when the body raises.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except (DataError, IntegrityError, ProgrammingError):
            raise
        except (DBAPIError, PoolTimeout, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            self._log.error("database unavailable", cause=str(cause))
            raise StorageUnavailable() from None

    async def upgrade(self, migrations: Path) -> None:
        """Brings the schema to the newest revision under `migrations`, an Alembic script folder."""

        def run(connection: Connection) -> None:
            config = Config()
            config.set_main_option("script_location", str(migrations))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        async with self._engine.begin() as connection:
            await connection.run_sync(run)

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
