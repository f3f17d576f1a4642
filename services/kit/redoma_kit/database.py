"""A service's database: one asynchronous engine, transactions, and its schema brought up to date by Alembic.

Every transaction says on whose behalf it runs. PostgreSQL holds it to that by row-level security: a statement that
forgets the tenant sees no other's rows. SQLite has no such thing, so every statement names the tenant as well.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from redoma_kit.errors import StorageUnavailable

BUSY_TIMEOUT_MS = 5_000
POOLED: Mapping[str, Any] = {"pool_pre_ping": True}
# SQLite writes one transaction at a time. Those that wait in the pool's queue get their turn in order; those that wait
# for the file's lock sleep and try again, until the unlucky give up. A file does not hang up, so nothing is pinged.
ONE_AT_A_TIME: Mapping[str, Any] = {"pool_size": 1, "max_overflow": 0}


class Role(Enum):
    """What a transaction may see. On PostgreSQL it is a role of the database, named after the service's schema."""

    # The rows of one tenant.
    APP = "app"
    # What it takes to look a credential up.
    AUTH = "auth"
    # All tenants' rows, for operators and for what a service does by itself.
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Scope:
    """On whose behalf a transaction runs. `tenant` is the id of the one tenant of Role.APP, and empty otherwise."""

    role: Role
    tenant: str = ""

    @classmethod
    def of(cls, tenant: str) -> "Scope":
        """Gives the scope of one tenant.

        Raises:
            ValueError: No tenant is named, which is a defect: PostgreSQL would silently show no row.
        """
        if not tenant:
            raise ValueError("a transaction of a tenant names the tenant")
        return cls(Role.APP, tenant)


AUTH = Scope(Role.AUTH)
PLATFORM = Scope(Role.PLATFORM)


class SchemaNotReady(Exception):
    """The database can't be opened or brought up to date; the message says why, for the operator."""


class Database:
    """An engine and its sessions.

    A failure of the database itself (no connection, locked, full, damaged) becomes StorageUnavailable with neutral
    words; the driver's text goes to the log. Statements' parameters are in neither.
    """

    def __init__(self, url: str, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        address = make_url(url)
        is_sqlite = address.get_backend_name() == "sqlite"
        file = address.database if is_sqlite and address.database not in (None, "", ":memory:") else None
        self._engine = create_async_engine(url, hide_parameters=True, **(ONE_AT_A_TIME if file else POOLED))
        if is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _configure_sqlite)
        if file:
            _FileWatch(Path(file)).follow(self._engine)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""
        return self._engine

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """Opens a session in a transaction of `scope` that commits at the end, or rolls back when the body raises.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except (DataError, IntegrityError, ProgrammingError):
            raise
        except (DBAPIError, DisconnectionError, PoolTimeout, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            self._log.error("database unavailable", cause=str(cause))
            raise StorageUnavailable() from None

    async def upgrade(self, migrations: Path) -> None:
        """Brings the schema to the newest revision under `migrations`, an Alembic script folder.

        Raises:
            SchemaNotReady: The database can't be opened, or is of a newer release.
        """

        def run(connection: Connection) -> None:
            config = Config()
            config.set_main_option("script_location", str(migrations))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

        try:
            async with self._engine.begin() as connection:
                await connection.run_sync(run)
        except (SQLAlchemyError, CommandError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            url = self._engine.url.render_as_string(hide_password=True)
            raise SchemaNotReady(f"The database {url} can't be brought up to date: {cause}.") from error

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()


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


def _configure_sqlite(connection: Any, _record: object) -> None:
    try:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # Nobody else knows of it yet, and its thread would outlive the event loop.
        connection.close()
        raise
