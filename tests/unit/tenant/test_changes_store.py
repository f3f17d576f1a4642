"""The feed of changes in the database: read in order, and no position given twice."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import insert

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.changes_feed import SqlChangeStore
from redoma_tenant.store.schema import API_KEYS, TENANTS

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TENANT = {
    "id": "acme",
    "display_name": "",
    "state": "ACTIVE",
    "weight": 0,
    "content_checks": {},
    "create_time": NOON,
    "update_time": NOON,
    "version": 1,
    "isolation": "SHARED",
    "adapter": "",
    "models": [],
    "region": "",
    "retention_s": 0,
    "tuning_consent": False,
    "content_storage": "PUBLIC",
    "limits": {},
    "at_limit": "",
    "quota_version": 1,
}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with the tables."""
    database = Database(database_url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    yield database
    await database.close()


async def note(database: Database, principal: str, time: datetime = NOON) -> None:
    """Notes a change of acme."""
    async with database.transaction(Scope.of("acme")) as session:
        await note_change(session, "acme", principal, "CREDENTIAL_REVOKED", time)


async def test_changes_are_read_on_from_a_position(database: Database) -> None:
    store = SqlChangeStore(database)
    assert await store.newest_position() == 0
    for principal in ("a", "b", "c"):
        await note(database, principal)
    first, second, third = await store.read_changes(0, ())
    assert [one.principal for one in (first, second, third)] == ["a", "b", "c"]
    assert (first.tenant, first.reason, first.time) == ("acme", "CREDENTIAL_REVOKED", NOON)
    assert await store.read_changes(second.position, ()) == [third]
    assert await store.read_changes(second.position, (first.position,)) == [first, third]
    assert await store.newest_position() == third.position


async def test_pruning_gives_no_position_twice(database: Database) -> None:
    store = SqlChangeStore(database)
    for principal in ("a", "b"):
        await note(database, principal)
    newest = await store.newest_position()
    await store.prune_changes(NOON + timedelta(hours=1))
    assert [one.principal for one in await store.read_changes(0, ())] == ["b"]
    await note(database, "c")
    assert await store.newest_position() > newest


async def test_young_changes_are_kept(database: Database) -> None:
    store = SqlChangeStore(database)
    await note(database, "old", NOON - timedelta(hours=1))
    await note(database, "young")
    await note(database, "newest")
    await store.prune_changes(NOON - timedelta(minutes=1))
    assert [one.principal for one in await store.read_changes(0, ())] == ["young", "newest"]


async def test_keys_that_expire_are_found_but_not_those_revoked(database: Database) -> None:
    times = {"a": NOON, "b": NOON + timedelta(seconds=1), "c": None, "d": NOON + timedelta(seconds=9), "e": NOON}
    async with database.transaction(PLATFORM) as session:
        await session.execute(insert(TENANTS).values(TENANT))
        for key, time in times.items():
            values: dict[str, object] = {
                "id": key * 16,
                "tenant_id": None if key == "a" else "acme",
                "display_name": "",
                "prefix": key,
                "digest": key,
                "scopes": [],
                "expire_time": time,
                "create_time": NOON,
                "models": [],
                "cidrs": [],
                "limits": {},
                "version": 1,
                "revoke_time": NOON if key == "e" else None,
            }
            await session.execute(insert(API_KEYS).values(values))
    found = await SqlChangeStore(database).read_expiries(NOON - timedelta(seconds=1), NOON + timedelta(seconds=5))
    assert [(one.tenant, one.principal) for one in found] == [
        ("", f"platform/apiKeys/{'a' * 16}"),
        ("acme", f"tenants/acme/apiKeys/{'b' * 16}"),
    ]
    assert found[1].time == NOON + timedelta(seconds=1)
