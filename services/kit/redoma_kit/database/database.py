"""One asynchronous engine, transactions, and the schema brought up to date by Alembic.

Every transaction says on whose behalf it runs. PostgreSQL holds it to that by row-level security: a statement that
forgets the tenant sees no other's rows. SQLite has no such thing, so every statement names the tenant as well.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from redoma_kit.database.postgresql import DRIVER_ERRORS, CommitUnknown, ConnectionLost, PostgresBackend
from redoma_kit.database.roles import SchemaNotReady
from redoma_kit.database.scope import Scope
from redoma_kit.database.sqlite import SqliteBackend
from redoma_kit.database.verdict import Verdict
from redoma_kit.errors import StorageUnavailable

DEFAULT_CONNECTIONS = 10
ATTEMPTS = 5
# The mean pause before another attempt; it doubles with each.
PAUSE_S = 0.01
FAILURES = (DBAPIError, DisconnectionError, PoolTimeout, ConnectionLost, CommitUnknown, *DRIVER_ERRORS)

T = TypeVar("T")


class Backend(Protocol):
    """A kind of database."""

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""

    def transaction(self, scope: Scope) -> AbstractAsyncContextManager[AsyncSession]:
        """Opens a session in a transaction that commits at the end, or rolls back when the body raises."""

    async def upgrade(self, migrate: Callable[[Connection], None]) -> None:
        """Runs the migrations."""

    def verdict(self, error: BaseException) -> Verdict:
        """Says what a failed transaction's error comes from."""

    async def scrub(self, rewrite: bool) -> None:
        """Takes what was deleted out of what the database keeps beside its tables."""


class Database:
    """An engine and its sessions.

    A failure of the database itself (no connection, locked, full, damaged) becomes StorageUnavailable with neutral
    words; the driver's text goes to the log. Statements' parameters are in neither.

    `schema` is PostgreSQL's, and names its roles. `connections` is the most that are open to PostgreSQL at once.
    """

    def __init__(
        self,
        url: str,
        log: structlog.stdlib.BoundLogger,
        schema: str = "redoma",
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._log = log
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self._backend: Backend = SqliteBackend(url) if is_sqlite else PostgresBackend(url, schema, connections, log)

    @property
    def engine(self) -> AsyncEngine:
        """The engine."""
        return self._backend.engine

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """Opens a session in a transaction of `scope` that commits at the end, or rolls back when the body raises.

        Raises:
            StorageUnavailable: The database does not answer, or lets another transaction pass first. If it fell silent
                at the very end, what was written may be there.
        """
        try:
            async with self._backend.transaction(scope) as session:
                yield session
        except FAILURES as error:
            if self._backend.verdict(error) is Verdict.DEFECT:
                raise
            raise self._unavailable(error) from None

    async def run(self, scope: Scope, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Does `work` in a transaction of `scope`, and again from its beginning when another transaction was in its way
        or the connection was lost before it could be committed. `work` must have no effect beyond its session.

        Raises:
            StorageUnavailable: The database does not answer, or the attempts were in vain. If it fell silent at the
                very end, what was written may be there.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with self._backend.transaction(scope) as session:
                    return await work(session)
            except FAILURES as error:
                verdict = self._backend.verdict(error)
                if verdict is Verdict.DEFECT:
                    raise
                if verdict is Verdict.LASTING or attempt == ATTEMPTS - 1:
                    raise self._unavailable(error) from None
            await asyncio.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 (spreads retries)
        raise AssertionError("unreachable")

    def _unavailable(self, error: BaseException) -> StorageUnavailable:
        self._log.error("database unavailable", cause=_cause(error))
        return StorageUnavailable()

    async def upgrade(self, migrations: Path, revision: str = "head") -> None:
        """Brings the schema to a revision under `migrations`, an Alembic script folder; on PostgreSQL, makes the roles.

        Raises:
            SchemaNotReady: The database can't be opened, or is of a newer release, or lacks roles that its login may
                not make.
        """

        def migrate(connection: Connection) -> None:
            config = Config()
            config.set_main_option("script_location", str(migrations))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

        try:
            await self._backend.upgrade(migrate)
        except (SQLAlchemyError, CommandError, OSError) as error:
            url = self.engine.url.render_as_string(hide_password=True)
            raise SchemaNotReady(f"The database {url} can't be brought up to date: {_cause(error)}.") from error

    async def scrub(self, rewrite: bool = False) -> None:
        """Takes what was deleted out of SQLite's log and, where it is rewritten, out of the free parts of its file.

        Other processes that read just then keep the log as it is. PostgreSQL does as much by itself, in time.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        try:
            await self._backend.scrub(rewrite)
        except FAILURES as error:
            raise self._unavailable(error) from None

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()


def _cause(error: BaseException) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)
