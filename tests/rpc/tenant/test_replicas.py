"""Two replicas of the service on one PostgreSQL, and administrators who all want something at the same time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from redoma.tenant.v1.api_key_pb2 import ApiKey as KeyMessage
from redoma.tenant.v1.user_pb2 import ROLE_OWNER
from redoma_kit.database import Scope
from redoma_kit.errors import Failure
from redoma_tenant.api_key import ApiKey, ApiKeySettings
from redoma_tenant.privacy.erasures import Erasure, Subject
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.erasures import SqlErasureStore
from redoma_tenant.store.schema import API_KEYS, USERS
from redoma_tenant.store.tenants import check_tenant
from tests.conftest import TestPki
from tests.fakes.postgres import PostgresServer
from tests.rpc.tenant.every_method import ISSUER, Person
from tests.rpc.tenant.intruder import Intruder
from tests.rpc.tenant.tenant_site import CALL_TIMEOUT_S, TenantSite, failure_or_none

CALLS = 50
TENANT: dict[str, Any] = {"parent": "tenants/acme"}
# What somebody else being faster may do to a call.
OVERTAKEN = frozenset({"", "STATE_CONFLICT", "RESOURCE_NOT_FOUND", "ETAG_MISMATCH", "RESOURCE_EXISTS"})


class LetGo(Exception):
    """Ends a transaction without what it did."""


@pytest.fixture
async def replicas(
    postgres_server: PostgresServer, pki: TestPki, tmp_path: Path
) -> AsyncIterator[tuple[TenantSite, TenantSite]]:
    """Two running services with one database, in which there is a tenant."""
    name = await asyncio.to_thread(postgres_server.create_migrated, SCHEMA, MIGRATIONS)
    sites = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        sites.append(TenantSite(pki, folder, postgres_server.url(name)))
    await asyncio.gather(*(site.start() for site in sites))
    await Person(sites[0]).made("CreateTenant", tenant_id="acme")
    yield sites[0], sites[1]
    for site in sites:
        await site.stop()
    postgres_server.drop_database(name)


def in_turn(replicas: tuple[TenantSite, TenantSite], calls: Iterable[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Gives the calls, one through the one replica and one through the other, as an operator."""
    people = [Person(site) for site in replicas]
    return [people[number % 2].made(name, **fields) for number, (name, fields) in enumerate(calls)]


async def reasons(calls: Iterable[Awaitable[Any]]) -> list[str]:
    """Makes the calls at once and gives how each ended, an empty text for success."""
    async with asyncio.timeout(CALL_TIMEOUT_S):
        found: list[Failure | None] = await asyncio.gather(*(failure_or_none(call) for call in calls))
    return ["" if failure is None else failure.reason for failure in found]


async def test_every_call_is_in_the_chain_once_whoever_writes_at_the_same_time(
    replicas: tuple[TenantSite, TenantSite],
) -> None:
    operator = Person(replicas[0])
    calls = [("CreateApiKey", {**TENANT, "api_key": {"display_name": str(number)}}) for number in range(CALLS)]
    assert await reasons(in_turn(replicas, calls)) == [""] * CALLS
    assert (await operator.made("VerifyAuditChain", **TENANT)).intact
    keys = await operator.made("ListApiKeys", **TENANT, page_size=1000)
    entries = await operator.made("ListAuditEntries", **TENANT, action="CreateApiKey", page_size=1000)
    told = Counter(entry.resource for entry in entries.audit_entries)
    assert told == Counter(key.name for key in keys.api_keys)
    assert len(told) == CALLS


async def test_owners_who_all_go_at_once_leave_one(replicas: tuple[TenantSite, TenantSite]) -> None:
    operator = Person(replicas[0])
    names = [
        (
            await operator.made(
                "CreateUser", **TENANT, user={"issuer": ISSUER, "subject": str(number), "role": ROLE_OWNER}
            )
        ).user.name
        for number in range(9)
    ]
    ways: list[Any] = [
        lambda name: ("DeleteUser", {"name": name}),
        lambda name: ("UpdateUser", {"user": {"name": name, "role": "ROLE_MEMBER"}}),
        lambda name: ("UpdateUser", {"user": {"name": name, "state": "STATE_DISABLED"}}),
    ]
    calls = [way(name) for way in ways for name in names]
    found = await reasons(in_turn(replicas, calls))
    assert set(found) <= {"", "STATE_CONFLICT", "RESOURCE_NOT_FOUND"}
    assert "STATE_CONFLICT" in found
    users = (await operator.made("ListUsers", **TENANT)).users
    assert [user.state for user in users if user.role == ROLE_OWNER].count(1) == 1


async def test_operators_who_lock_each_other_out_leave_a_key(replicas: tuple[TenantSite, TenantSite]) -> None:
    operator = Person(replicas[0])
    names = [(await operator.made("CreateApiKey", parent="platform")).api_key.name for _ in range(8)]
    calls: list[tuple[str, dict[str, Any]]] = [("RevokeApiKey", {"name": name}) for name in names]
    calls += [
        ("UpdateApiKey", {"api_key": {"name": name, "expire_time": {"seconds": 4_102_444_800}}}) for name in names
    ]
    found = await reasons(in_turn(replicas, calls))
    assert set(found) == {"", "STATE_CONFLICT"}
    keys = (await operator.made("ListApiKeys", parent="platform")).api_keys
    assert len([key for key in keys if key.state == 1 and not key.HasField("expire_time")]) == 1


async def test_of_parallel_rotations_of_a_key_one_wins(replicas: tuple[TenantSite, TenantSite]) -> None:
    operator = Person(replicas[0])
    name = (await operator.made("CreateApiKey", **TENANT)).api_key.name
    found = await reasons(in_turn(replicas, [("RotateApiKey", {"name": name})] * 8))
    assert sorted(found) == ["", *["STATE_CONFLICT"] * 7]
    keys = (await operator.made("ListApiKeys", **TENANT)).api_keys
    assert len(keys) == 2
    assert next(key for key in keys if key.name == name).replaced_by == next(
        key.name for key in keys if key.name != name
    )


async def test_a_storm_of_changes_is_answered_and_leaves_what_can_be_read(
    replicas: tuple[TenantSite, TenantSite],
) -> None:
    operator = Person(replicas[0])
    user = (
        await operator.made("CreateUser", **TENANT, user={"issuer": ISSUER, "subject": "x", "role": "ROLE_VIEWER"})
    ).user.name
    key = (await operator.made("CreateApiKey", **TENANT, api_key={"user": user})).api_key.name
    own = {"name": "tenants/acme"}
    storm: list[tuple[str, dict[str, Any]]] = [
        ("UpdateTenant", {"tenant": {**own, "display_name": "a"}}),
        ("DisableTenant", own),
        ("EnableTenant", own),
        ("DeleteTenant", own),
        ("UndeleteTenant", own),
        ("UpdateQuota", {"quota": {"name": "tenants/acme/quota", "limits": {"tokens_per_day": 5}}}),
        ("UpdateApiKey", {"api_key": {"name": key, "display_name": "b"}}),
        ("RotateApiKey", {"name": key}),
        ("RevokeApiKey", {"name": key}),
        ("UpdateUser", {"user": {"name": user, "display_name": "c"}}),
        ("EraseData", {**TENANT, "principal": user}),
        ("DeleteUser", {"name": user}),
        ("CreateApiKey", {**TENANT, "api_key": {"user": user}}),
        ("CreateUser", {**TENANT, "user": {"issuer": ISSUER, "subject": "x", "role": "ROLE_VIEWER"}}),
        ("ListApiKeys", TENANT),
    ]
    found = await reasons(in_turn(replicas, storm * 4 + storm[::-1] * 4))
    assert set(found) <= OVERTAKEN | {"INVALID_FIELD"}
    for name, fields in (("GetTenant", own), ("ListApiKeys", TENANT), ("ListUsers", TENANT), ("ListErasures", TENANT)):
        await operator.made(name, **fields)
    for parent in ("tenants/acme", "platform"):
        assert (await operator.made("VerifyAuditChain", parent=parent)).intact


async def test_a_deletion_is_taken_back_whole_or_purged_whole(replicas: tuple[TenantSite, TenantSite]) -> None:
    """The replica that purges has the later clock."""
    site, purging = replicas
    operator, store = Person(site), SqlErasureStore(purging.server.database)
    for number in range(12):
        tenant, own = f"t{number}", {"name": f"tenants/t{number}"}
        await operator.made("CreateTenant", tenant_id=tenant)
        await operator.made("CreateApiKey", parent=own["name"])
        await operator.made("DeleteTenant", **own, grace={"seconds": 60})
        later = site.clock() + timedelta(hours=1)
        erasure = Erasure("0" * 30 + f"{number:02}", Subject(tenant), "", later, ())
        purge, (undone,) = await asyncio.gather(
            store.begin_purge(erasure, later), reasons([operator.made("UndeleteTenant", **own)])
        )
        keys = (await operator.made("ListApiKeys", parent=own["name"])).api_keys
        assert (purge, undone, len(keys)) in {(True, "STATE_CONFLICT", 0), (False, "", 1)}


async def test_an_erased_person_keeps_no_key_that_works(
    replicas: tuple[TenantSite, TenantSite], postgres_server: PostgresServer
) -> None:
    """A key of his is being added, and waits for somebody else who takes its prefix, while he is erased."""
    site, other = replicas
    operator, store = Person(site), SqlErasureStore(other.server.database)
    user = {"issuer": ISSUER, "subject": "ana", "role": "ROLE_MEMBER"}
    name = (await operator.made("CreateUser", **TENANT, user=user)).user.name
    now, user_id = site.clock(), name.rpartition("/")[2]
    first, his = (
        replace(ApiKey.of("acme", str(number) * 16, ApiKeySettings(user=user_id), now), prefix="rdm_same")
        for number in (1, 2)
    )
    columns: dict[str, Any] = {column.name: None for column in API_KEYS.columns}
    columns |= {name: [] for name in ("scopes", "models", "cidrs", "limits")}
    columns |= {"id": first.id, "tenant_id": "acme", "prefix": first.prefix, "create_time": now, "version": 1}
    with suppress(LetGo):
        async with site.server.database.transaction(Scope.of("acme")) as session:
            await session.execute(insert(API_KEYS).values(columns | {"display_name": "", "digest": ""}))
            adding = asyncio.create_task(SqlApiKeyStore(other.server.database).add_api_key(his, "0" * 64))
            while not await waits_for_a_lock(postgres_server):
                assert not adding.done()
            erasing = asyncio.create_task(store.forget_user(Subject("acme", name), now))
            while not erasing.done() and await locks_awaited(postgres_server) < 2:
                assert not adding.done()
            raise LetGo
    await asyncio.wait_for(asyncio.gather(adding, erasing), CALL_TIMEOUT_S)
    keys = (await operator.made("ListApiKeys", **TENANT)).api_keys
    assert [key.state for key in keys] == [KeyMessage.STATE_REVOKED]


async def test_nothing_is_added_to_a_tenant_behind_the_back_of_its_purge(
    replicas: tuple[TenantSite, TenantSite], postgres_server: PostgresServer
) -> None:
    """Somebody is added by a call that has found the tenant active, and it is deleted and purged before that ends."""
    site, other = replicas
    store = SqlErasureStore(other.server.database)
    now = site.clock()

    async def delete_and_purge() -> None:
        await Person(other).made("DeleteTenant", name="tenants/acme", grace={})
        later = now + timedelta(hours=1)
        assert await store.begin_purge(Erasure("0" * 32, Subject("acme"), "", later, ()), later)

    async with site.server.database.transaction(Scope.of("acme")) as session:
        await check_tenant(session, "acme", for_more=True)
        purge = asyncio.create_task(delete_and_purge())
        while not purge.done() and not await waits_for_a_lock(postgres_server):
            assert not purge.cancelled()
        await session.execute(insert(USERS).values(person(now)))
    await asyncio.wait_for(purge, CALL_TIMEOUT_S)
    assert await Intruder(site).read("SELECT id FROM users") == []


async def waits_for_a_lock(server: PostgresServer) -> bool:
    """Says whether a transaction waits for another's end."""
    return await locks_awaited(server) > 0


async def locks_awaited(server: PostgresServer) -> int:
    """Counts the transactions that wait for others' ends."""
    return int(await asyncio.to_thread(server.execute, "SELECT count(*) FROM pg_locks WHERE NOT granted"))


def person(now: Any) -> dict[str, Any]:
    """Gives the row of a user."""
    return {
        "id": "0" * 32,
        "tenant_id": "acme",
        "issuer": ISSUER,
        "subject": "ana",
        "display_name": "Ana",
        "role": "MEMBER",
        "state": "ACTIVE",
        "create_time": now,
        "update_time": now,
        "version": 1,
    }
