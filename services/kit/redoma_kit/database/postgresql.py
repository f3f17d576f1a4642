"""PostgreSQL: pooled connections, on which each transaction takes on the role and tenant of its scope.

BEGIN, role and tenant travel as one message, which also shows whether a pooled connection is still alive. So BEGIN and
COMMIT go to the driver, and SQLAlchemy is told that there are none.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, cast

import asyncpg
import structlog
from sqlalchemy import Connection, NullPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from redoma_kit.database.roles import prepare, role_name
from redoma_kit.database.scope import Scope
from redoma_kit.database.session import ScopedSession
from redoma_kit.database.verdict import DEFECTS, Verdict

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 30
# How many times a server that can't be connected to is tried for one transaction, and the mean pause between.
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_S = 0.1
UPGRADE_ATTEMPTS = 5
# A statement that the server ends or never answers; locks that are not had; a transaction that nobody goes on with.
TIMEOUTS: Mapping[str, str] = {
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}
CONFLICTS = frozenset({"40001", "40P01"})
CONNECTION_TROUBLE = "08"
# A value that its column can't hold, such as a text with a NUL.
UNFIT_DATA = "22"
# The server shuts down, starts, or has become a standby: another connection may find one that works.
MOVED = frozenset({"57P01", "57P02", "57P03", "25006"})
# What two processes meet that make the same roles at once, in two databases of one server.
RACES = frozenset({"42710", "42P06", "23505", "XX000"})
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Driver(Protocol):
    """A connection as the driver has it."""

    async def execute(self, query: str) -> str:
        """Runs statements in one round trip, and gives what the server says of the last."""

    def is_closed(self) -> bool:
        """Says whether the connection is lost."""


class ConnectionLost(Exception):
    """The connection was lost before the server was told to commit."""


class CommitUnknown(Exception):
    """The connection was lost while the server was told to commit; it may have."""


class RolledBack(Exception):
    """The server would not commit: a statement had failed, and the body went on regardless."""


class PostgresBackend:
    """A pool of connections to the schema of one service."""

    def __init__(self, url: str, schema: str, connections: int, log: structlog.stdlib.BoundLogger) -> None:
        self._url = url
        self._schema = schema
        self._connections = connections
        self._log = log
        self.engine: AsyncEngine = create_async_engine(
            url,
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                # For a peer that is silent; the server's own limit is the lower.
                "command_timeout": STATEMENT_TIMEOUT_S + CONNECT_TIMEOUT_S,
                "server_settings": self._server_settings(TIMEOUTS),
            },
        )

    def _server_settings(self, timeouts: Mapping[str, str]) -> dict[str, str]:
        # With the temporary schema last, nobody's table stands in for the service's.
        return {"search_path": f"{self._schema}, pg_temp", "standard_conforming_strings": "on", **timeouts}

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """Opens a session in a transaction that commits at the end, or rolls back when the body raises.

        Raises:
            ConnectionLost: The connection was lost before committing.
            CommitUnknown: The connection was lost while committing.
        """
        connection, driver = await self._begin(scope)
        try:
            try:
                async with ScopedSession(connection, expire_on_commit=False) as session:
                    yield session
            except BaseException as error:
                await self._roll_back(connection, driver, error)
                raise
            await self._commit(connection, driver)
        finally:
            await asyncio.shield(connection.close())

    async def _begin(self, scope: Scope) -> tuple[AsyncConnection, Driver]:
        statements = _beginning(self._schema, scope)
        refusals = 0
        # All that the pool holds may be dead, which only shows here.
        for attempt in range(self._connections + CONNECT_ATTEMPTS):
            try:
                connection = await self.engine.connect()
            except (DBAPIError, OSError) as error:
                refusals += 1
                if refusals == CONNECT_ATTEMPTS or isinstance(error, TimeoutError):
                    raise
                await asyncio.sleep(CONNECT_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 (spreads retries)
                continue
            try:
                driver: Driver = cast(Driver, (await connection.get_raw_connection()).driver_connection)
                await driver.execute(statements)
            except BaseException as error:
                await _discard(connection)
                if not _is_lost(error) or attempt == self._connections + CONNECT_ATTEMPTS - 1:
                    raise
            else:
                return connection, driver
        raise AssertionError("unreachable")

    async def _commit(self, connection: AsyncConnection, driver: Driver) -> None:
        if driver.is_closed():
            await _discard(connection)
            raise ConnectionLost("before the end of the transaction")
        try:
            outcome = await driver.execute("COMMIT")
        except BaseException as error:
            await _discard(connection)
            if isinstance(error, DRIVER_ERRORS) and _sqlstate(error) not in CONFLICTS:
                raise CommitUnknown(str(error)) from error
            raise
        if outcome != "COMMIT":
            raise RolledBack("a statement had failed")

    async def _roll_back(self, connection: AsyncConnection, driver: Driver, error: BaseException) -> None:
        if driver.is_closed() or _sqlstate(error) in MOVED:
            await _discard(connection)
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.shield(driver.execute("ROLLBACK"))
        except DRIVER_ERRORS:
            await _discard(connection)
        except BaseException:
            await _discard(connection)
            raise

    async def upgrade(self, migrate: Callable[[Connection], None]) -> None:
        """Makes roles and schema where they are missing, and runs the migrations as the tables' owner.

        All of it is one transaction, and one process does it at a time.

        Raises:
            SchemaNotReady: The login may not make what is missing.
        """

        def run(connection: Connection) -> None:
            prepare(connection, self._schema, self._log)
            migrate(connection)

        engine = create_async_engine(
            self._url,
            hide_parameters=True,
            poolclass=NullPool,
            connect_args={"timeout": CONNECT_TIMEOUT_S, "server_settings": self._server_settings({})},
        )
        for attempt in range(UPGRADE_ATTEMPTS):
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(run)
            except DBAPIError as error:
                if attempt == UPGRADE_ATTEMPTS - 1 or _sqlstate(error) not in RACES:
                    raise
            else:
                return

    async def scrub(self, rewrite: bool) -> None:
        """Does nothing: the server vacuums and recycles its log by itself."""

    def verdict(self, error: BaseException) -> Verdict:
        """Says what a failed transaction's error comes from."""
        sqlstate = _sqlstate(error) or ""
        if isinstance(error, DEFECTS) or sqlstate.startswith(UNFIT_DATA):
            return Verdict.DEFECT
        if isinstance(error, ConnectionLost) or sqlstate in CONFLICTS or _is_lost(error):
            return Verdict.PASSING
        return Verdict.LASTING


def _beginning(schema: str, scope: Scope) -> str:
    if "\0" in scope.tenant:
        raise ValueError("no tenant's id holds a NUL")
    role, tenant = role_name(schema, scope.role), scope.tenant.replace("'", "''")
    return f"BEGIN; SELECT set_config('role', '{role}', true), set_config('redoma.tenant_id', '{tenant}', true)"


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_lost(error.driver_exception)
    is_broken = isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | ConnectionError)
    sqlstate = _sqlstate(error) or ""
    return is_broken or sqlstate in MOVED or sqlstate.startswith(CONNECTION_TROUBLE)


async def _discard(connection: AsyncConnection) -> None:
    await asyncio.shield(_invalidate(connection))


async def _invalidate(connection: AsyncConnection) -> None:
    if not connection.closed and not connection.invalidated:
        await connection.invalidate()
    await connection.close()
