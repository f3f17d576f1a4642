"""What one replica revokes every replica refuses within a second, and what can't be known is not admitted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import api_key_pb2, tenant_pb2
from redoma_tenant.change import Change
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    TENANTS,
    TenantSite,
    claims_in,
    identity_in,
    refusal_reason,
)

PROMISED_S = 1.0
ENOUGH_S = 30.0


@pytest.fixture
async def other(site_on_each: TenantSite) -> AsyncIterator[TenantSite]:
    """Another replica, on the same database."""
    url = site_on_each.database_url or f"sqlite+aiosqlite:///{site_on_each.database_file}"
    folder = site_on_each.folder / "other"
    folder.mkdir()
    other = TenantSite(site_on_each.pki, folder, url, bootstrap_key=site_on_each.bootstrap_key)
    await other.start()
    yield other
    await other.stop()


async def refused_after_s(site: TenantSite, key: str, reason: str) -> float:
    """Asks without a pause until the key is refused with `reason`, and gives when the last call began that was let in.

    How long a refusal takes is the machine's matter: with a database that is away, more than a moment.
    """
    began = asked = last = time.monotonic()
    while asked - began < ENOUGH_S:
        asked = time.monotonic()
        response = await site.check(key)
        if response.HasField("denied_response"):
            assert refusal_reason(response) == reason
            return last - began
        last = asked
    pytest.fail("the key is still admitted")


async def warm(site: TenantSite, key: str) -> None:
    """Has the key in the site's cache."""
    await site.server.sign_in.changes.caught_up()
    for _ in range(2):
        identity_in(await site.check(key))


async def test_a_key_revoked_through_one_replica_is_refused_by_the_other(
    site_on_each: TenantSite, other: TenantSite
) -> None:
    await site_on_each.add_tenant()
    key, bystander = [(await site_on_each.add_key()).secret for _ in range(2)]
    await warm(other, key)
    await warm(other, bystander)
    name = next(found.name for found in await site_on_each.list_keys() if key.startswith(found.prefix))
    await site_on_each.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=name))
    assert refusal_reason(await site_on_each.check(key)) == "CREDENTIAL_REVOKED", "at once where it was revoked"
    assert await refused_after_s(other, key, "CREDENTIAL_REVOKED") < PROMISED_S
    identity_in(await other.check(bystander))


async def test_a_tenant_disabled_through_one_replica_is_refused_by_the_other(
    site_on_each: TenantSite, other: TenantSite
) -> None:
    await site_on_each.add_tenant()
    key = (await site_on_each.add_key()).secret
    await warm(other, key)
    await site_on_each.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    assert await refused_after_s(other, key, "TENANT_DISABLED") < PROMISED_S
    await site_on_each.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme"))
    await other.server.sign_in.changes.caught_up()
    identity_in(await other.check(key))


async def test_what_a_tenant_is_set_to_reaches_identities(site_on_each: TenantSite, other: TenantSite) -> None:
    await site_on_each.add_tenant(weight=10)
    key = (await site_on_each.add_key()).secret
    await warm(other, key)
    tenant = tenant_pb2.Tenant(
        name="tenants/acme", weight=20, isolation=tenant_pb2.Tenant.ISOLATION_DEDICATED, models=["a", "b"]
    )
    await site_on_each.call(f"{TENANTS}UpdateTenant", tenant_pb2.UpdateTenantRequest(tenant=tenant))
    await other.server.sign_in.changes.caught_up()
    claims = claims_in(await other.check(key))
    assert (claims["weight"], claims["isolation"], claims["models"]) == (20, "DEDICATED", ["a", "b"])


async def test_a_cached_key_expires_to_the_second(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    expire_time = Timestamp()
    expire_time.FromDatetime(site_on_each.clock() + timedelta(hours=1))
    key = (await site_on_each.add_key(expire_time=expire_time)).secret
    await warm(site_on_each, key)
    site_on_each.clock.ahead = timedelta(minutes=59, seconds=30)
    identity_in(await site_on_each.check(key))
    site_on_each.clock.ahead = timedelta(hours=1)
    assert refusal_reason(await site_on_each.check(key)) == "CREDENTIAL_EXPIRED"


async def test_followers_hear_of_revoked_and_of_expired_keys(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    expire_time = Timestamp()
    expire_time.FromDatetime(site_on_each.clock() + timedelta(hours=1))
    revoked = (await site_on_each.add_key()).api_key.name
    expiring = (await site_on_each.add_key(expire_time=expire_time)).api_key.name
    await site_on_each.server.sign_in.changes.caught_up()

    async def until(reason: str) -> Change:
        async for change in following:
            if change is not None and change.reason == reason:
                return change
        pytest.fail("the feed ended")

    async with aclosing(site_on_each.server.sign_in.changes.follow(0)) as following, asyncio.timeout(ENOUGH_S):
        waiting = asyncio.ensure_future(until("CREDENTIAL_REVOKED"))
        await asyncio.sleep(0)
        await site_on_each.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=revoked))
        change = await waiting
        assert (change.tenant, change.principal) == ("acme", revoked)
        site_on_each.clock.ahead = timedelta(hours=1)
        assert (await until("CREDENTIAL_EXPIRED")).principal == expiring


async def test_a_cached_key_is_not_admitted_when_its_revocation_could_not_be_heard_of(site: TenantSite) -> None:
    await site.add_tenant()
    key = (await site.add_key()).secret
    await warm(site, key)
    await site.server.database.close()
    site.database_file.parent.rename(site.folder / "away")
    assert await refused_after_s(site, key, "STORAGE_UNAVAILABLE") < PROMISED_S
    (site.folder / "away").rename(site.database_file.parent)
    async with asyncio.timeout(ENOUGH_S):
        await site.server.sign_in.changes.caught_up()
    identity_in(await site.check(key))


async def test_cached_keys_need_no_database(site: TenantSite, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.add_tenant()
    key = (await site.add_key()).secret
    await warm(site, key)
    looked_up = []
    monkeypatch.setattr(type(site.server.database), "transaction", lambda *_: looked_up.append("a transaction"))
    identity_in(await site.check(key))
    assert not looked_up
