"""PostgreSQL under a service: whose transaction it is, what is retried, what is refused, and that nothing is halved."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from redoma_kit.database import AUTH, PLATFORM, Database, SchemaNotReady, Scope, roles_statements
from redoma_kit.database.postgresql import PostgresBackend, RolledBack
from redoma_kit.errors import StorageUnavailable
from tests.fakes.postgres import LOGIN, PostgresServer
from tests.fakes.small_schema import SCHEMA, open_small_database, write_migrations

ACME = Scope.of("acme")
WHO = text("SELECT current_user, current_setting('redoma.tenant_id', true)")
ADD_NOTE = text("INSERT INTO notes (tenant_id, words) VALUES ('acme', :words)")
NOTES = text("SELECT words FROM notes ORDER BY words")


@pytest.fixture
async def database(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A small database."""
    opened = await open_small_database(postgres_url, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def narrow(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A small database over one connection."""
    opened = await open_small_database(postgres_url, tmp_path, connections=1)
    yield opened
    await opened.close()


async def add(session: AsyncSession, *words: str) -> None:
    for word in words:
        await session.execute(ADD_NOTE, {"words": word})


async def notes(database: Database) -> list[str]:
    async with database.transaction(PLATFORM) as session:
        return list(await session.scalars(NOTES))


async def backend(session: AsyncSession) -> int:
    return int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


# --- on whose behalf -------------------------------------------------------------------------------------------------


async def test_a_transaction_is_its_scopes_and_the_connection_nobodys_afterwards(narrow: Database) -> None:
    for scope, role, tenant in ((ACME, "app", "acme"), (AUTH, "auth", ""), (PLATFORM, "platform", "")):
        async with narrow.transaction(scope) as session:
            assert tuple((await session.execute(WHO)).one()) == (f"{SCHEMA}_{role}", tenant)
    async with narrow.engine.connect() as connection:
        assert tuple((await connection.execute(WHO)).one()) == (LOGIN, "")


async def test_a_transaction_that_fails_leaves_no_scope_behind(narrow: Database) -> None:
    with pytest.raises(ValueError, match="stop"):
        async with narrow.transaction(ACME):
            raise ValueError("stop")
    async with narrow.engine.connect() as connection:
        assert tuple((await connection.execute(WHO)).one()) == (LOGIN, "")


@pytest.mark.parametrize("tenant", ["o'brien", "', false); DROP TABLE notes; --", "\\', true", "größe"])
async def test_a_tenants_id_is_data(database: Database, tenant: str) -> None:
    async with database.transaction(Scope.of(tenant)) as session:
        assert (await session.execute(WHO)).one()[1] == tenant
    assert await notes(database) == []


async def test_a_tenants_id_with_a_nul_is_refused_before_the_database_sees_it(database: Database) -> None:
    with pytest.raises(ValueError, match="NUL"):
        async with database.transaction(Scope.of("acme\0")):
            pass


async def test_the_login_alone_sees_nothing(database: Database) -> None:
    """What runs outside a transaction of a scope has no rights to inherit."""
    async with database.engine.connect() as connection:
        with pytest.raises(ProgrammingError, match="permission denied"):
            await connection.execute(text(f"SELECT * FROM {SCHEMA}.notes"))


async def test_a_store_cant_end_its_transaction_and_go_on_as_nobody(database: Database) -> None:
    for end in ("commit", "rollback"):
        with pytest.raises(TypeError):
            async with database.transaction(ACME) as session:
                await getattr(session, end)()


async def test_a_savepoint_keeps_the_rest(database: Database) -> None:
    async with database.transaction(ACME) as session:
        await add(session, "kept")
        with pytest.raises(ValueError, match="part"):
            async with session.begin_nested():
                await add(session, "undone")
                raise ValueError("part")
        await add(session, "later")
    assert await notes(database) == ["kept", "later"]


# --- whole or nothing ------------------------------------------------------------------------------------------------


async def test_a_statements_failure_that_was_ignored_is_not_taken_for_a_success(database: Database) -> None:
    with pytest.raises(RolledBack):
        async with database.transaction(ACME) as session:
            await add(session, "lost")
            with pytest.raises(ProgrammingError):
                await session.execute(text("SELECT * FROM nowhere"))
    assert await notes(database) == []


async def test_a_cancelled_transaction_is_undone_and_its_connection_serves_on(narrow: Database) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with narrow.transaction(ACME) as session:
            await add(session, "undone")
            begun.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await notes(narrow) == []


async def test_a_connection_lost_at_the_very_end_is_not_tried_again(
    database: Database, postgres_server: PostgresServer
) -> None:
    """The server may have committed: to do it twice could book twice."""
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await add(session, "halved", "or not")
        # The event loop has no moment to notice before COMMIT is sent.
        postgres_server.execute(f"SELECT pg_terminate_backend({await backend(session)})")

    with pytest.raises(StorageUnavailable):
        await database.run(ACME, work)
    assert attempts == 1
    assert await notes(database) == []


# --- retried ---------------------------------------------------------------------------------------------------------


async def test_work_is_done_once_when_its_connection_is_lost_midway(
    database: Database, postgres_server: PostgresServer
) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> str:
        nonlocal attempts
        attempts += 1
        await add(session, "first")
        if attempts == 1:
            postgres_server.execute(f"SELECT pg_terminate_backend({await backend(session)})")
        await add(session, "second")
        return "done"

    assert await database.run(ACME, work) == "done"
    assert attempts == 2
    assert await notes(database) == ["first", "second"]


async def test_work_survives_a_server_that_crashes_and_starts_again_in_its_midst(
    database: Database, postgres_server: PostgresServer
) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await add(session, "first")
        if attempts == 1:
            postgres_server.stop(signal.SIGQUIT)
            postgres_server.start()
        await add(session, "second")

    async with database.transaction(ACME) as session:
        await add(session, "before")
    await database.run(ACME, work)
    assert attempts == 2
    assert await notes(database) == ["before", "first", "second"]


async def test_a_deadlock_is_resolved_by_trying_again(database: Database) -> None:
    async with database.transaction(ACME) as session:
        await add(session, "x", "y")
    attempts = 0
    both_hold_one = asyncio.Barrier(2)

    async def work(session: AsyncSession, first: str, second: str) -> None:
        nonlocal attempts
        attempts += 1
        lock = text("UPDATE notes SET words = words WHERE words = :words")
        await session.execute(lock, {"words": first})
        if attempts <= 2:
            await both_hold_one.wait()
        await session.execute(lock, {"words": second})

    async with asyncio.timeout(30):
        await asyncio.gather(
            database.run(ACME, lambda session: work(session, "x", "y")),
            database.run(ACME, lambda session: work(session, "y", "x")),
        )
    assert attempts == 3


CONFLICT = text("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = 'serialization_failure'; END $$")


async def test_a_conflict_without_end_is_refused(database: Database) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await add(session, "never")
        await session.execute(CONFLICT)

    with capture_logs() as logs, pytest.raises(StorageUnavailable) as caught:
        await database.run(ACME, work)
    assert "conflict" not in caught.value.message
    assert "conflict" in logs[-1]["cause"]
    assert 1 < attempts < 10
    assert await notes(database) == []


async def test_a_defect_is_not_tried_again(database: Database) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(ProgrammingError):
        await database.run(ACME, work)
    assert attempts == 1


@pytest.mark.parametrize("words", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
async def test_a_text_that_the_database_cant_hold_is_not_taken_for_its_absence(database: Database, words: str) -> None:
    with pytest.raises((DBAPIError, ValueError)):
        async with database.transaction(ACME) as session:
            await add(session, words)


async def test_connections_that_died_while_idle_are_replaced_unnoticed(
    database: Database, postgres_server: PostgresServer
) -> None:
    all_open = asyncio.Barrier(5)

    async def hold() -> None:
        async with database.transaction(ACME) as session:
            await session.execute(WHO)
            await all_open.wait()

    async with asyncio.timeout(30):
        await asyncio.gather(*(hold() for _ in range(5)))
        postgres_server.stop(signal.SIGQUIT)
        postgres_server.start()
        await asyncio.gather(*(hold() for _ in range(5)))


# --- refused ---------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_is_unavailable_until_it_is_back(
    database: Database, postgres_server: PostgresServer
) -> None:
    postgres_server.stop()
    try:
        for _ in range(2):
            with capture_logs() as logs, pytest.raises(StorageUnavailable):
                await notes(database)
            assert logs[-1]["event"] == "database unavailable"
    finally:
        postgres_server.start()
    assert await notes(database) == []


async def test_a_transaction_that_outlives_the_server_is_refused_and_undone(
    database: Database, postgres_server: PostgresServer
) -> None:
    with pytest.raises(StorageUnavailable):
        async with database.transaction(ACME) as session:
            await add(session, "first")
            postgres_server.stop(signal.SIGQUIT)
            postgres_server.start()
            await add(session, "second")
    assert await notes(database) == []


async def test_who_waits_too_long_for_a_connection_is_refused(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_kit.database.postgresql.POOL_TIMEOUT_S", 0.05)
    database = await open_small_database(postgres_url, tmp_path, connections=1)
    async with database.transaction(ACME) as session:
        await add(session, "kept")
        with pytest.raises(StorageUnavailable):
            await notes(database)
    assert await notes(database) == ["kept"]
    await database.close()


async def test_a_server_with_no_connection_to_spare_is_unavailable(
    database: Database, postgres_server: PostgresServer
) -> None:
    postgres_server.execute(f"ALTER ROLE {LOGIN} CONNECTION LIMIT 0")
    try:
        await database.engine.dispose()
        with pytest.raises(StorageUnavailable):
            await notes(database)
    finally:
        postgres_server.execute(f"ALTER ROLE {LOGIN} CONNECTION LIMIT -1")
    assert await notes(database) == []


# --- roles and schema ------------------------------------------------------------------------------------------------


async def test_two_processes_may_start_at_once(postgres_url: str, tmp_path: Path) -> None:
    migrations = write_migrations(tmp_path)
    databases = [Database(postgres_url, structlog.get_logger(), "redoma_twins") for _ in range(4)]
    await asyncio.gather(*(database.upgrade(migrations) for database in databases))
    for database in databases:
        await database.close()


async def test_processes_of_two_databases_of_one_server_may_make_the_roles_at_once(
    postgres_server: PostgresServer,
) -> None:
    names = [postgres_server.create_database() for _ in range(8)]
    log = structlog.get_logger()
    backends = [PostgresBackend(postgres_server.url(name), "redoma_cousins", 1, log) for name in names]
    await asyncio.gather(*(backend.upgrade(lambda connection: None) for backend in backends))
    for name in names:
        assert (
            postgres_server.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'redoma_cousins'", name) == "1"
        )
        postgres_server.drop_database(name)


async def test_a_login_that_may_make_nothing_is_told_what_an_administrator_runs(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    postgres_server.execute('DROP ROLE IF EXISTS "plain"')
    postgres_server.execute('CREATE ROLE "plain" LOGIN')
    database = Database(postgres_server.url(postgres_database, "plain"), structlog.get_logger(), "redoma_plain")
    migrations = write_migrations(tmp_path)
    with pytest.raises(SchemaNotReady) as caught:
        await database.upgrade(migrations)
    statements = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert statements == [f"{statement};" for statement in roles_statements("redoma_plain", "plain")]
    for statement in statements:
        postgres_server.execute(statement, postgres_database)
    await database.upgrade(migrations)
    async with database.transaction(ACME) as session:
        await add(session, "kept")
    await database.close()


async def test_a_login_that_is_a_superuser_is_held_to_the_policies_all_the_same(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        database = await open_small_database(postgres_server.url(postgres_database, "postgres"), tmp_path)
    assert any("bypasses row-level security" in entry["event"] for entry in logs)
    async with database.transaction(ACME) as session:
        await add(session, "acme's")
    async with database.transaction(Scope.of("globex")) as session:
        assert list(await session.scalars(NOTES)) == []
    await database.close()


async def test_an_older_server_is_refused_by_name(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_kit.database.roles.LEAST_VERSION", 99)
    with pytest.raises(SchemaNotReady, match="PostgreSQL 99 or newer is needed; this server is 18"):
        await open_small_database(postgres_url, tmp_path)


async def test_the_oldest_server_that_will_do(tmp_path: Path) -> None:
    server = PostgresServer(version=16)
    try:
        database = await open_small_database(server.url(server.create_database()), tmp_path)
        async with database.transaction(ACME) as session:
            await add(session, "kept")
        async with database.transaction(Scope.of("globex")) as session:
            assert list(await session.scalars(NOTES)) == []
        assert await notes(database) == ["kept"]
        await database.close()
    finally:
        server.close()


async def test_a_server_that_is_away_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    url = f"postgresql+asyncpg://redoma:hunter2@/x?host={tmp_path}"
    database = Database(url, structlog.get_logger(), SCHEMA)
    with pytest.raises(SchemaNotReady, match="can't be brought up to date") as caught:
        await database.upgrade(write_migrations(tmp_path))
    assert "hunter2" not in str(caught.value)
