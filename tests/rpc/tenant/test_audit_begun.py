"""Calls that may change something are on record before they do, so that one that is cut off is told of too."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from redoma.tenant.v1 import tenant_pb2
from redoma_kit.errors import StorageUnavailable
from redoma_tenant.audit.begun import LOST_AFTER, UNKNOWN
from redoma_tenant.audit.chain import Event
from redoma_tenant.policy import POLICY
from redoma_tenant.store.begun import SqlBegunStore
from tests.rpc.tenant.every_method import Person
from tests.rpc.tenant.intruder import Intruder
from tests.rpc.tenant.tenant_site import TENANTS, TenantSite, failure_of_call

ACME = {"parent": "tenants/acme"}
REVOKE = "/redoma.tenant.v1.ApiKeyService/RevokeApiKey"


async def notes(site: TenantSite) -> list[str]:
    """Gives the actions of the calls that are noted as begun."""
    return [str(row[0]) for row in await Intruder(site).read("SELECT action FROM audit_begun")]


async def lose(site: TenantSite, key: str = "rdm_abcdefgh12345678") -> None:
    """Notes a call as a process does that is killed then."""
    event = Event(
        "acme", site.clock(), "tenants/acme/users/x", REVOKE, "tenants/acme/apiKeys/1", "::1", "", "r1", {"k": key}
    )
    await site.server.audit.begun.note(uuid.uuid4().hex, event)


async def test_a_lost_call_is_told_of_once_by_whichever_replica(site_on_each: TenantSite) -> None:
    site = site_on_each
    operator = Person(site)
    await site.add_tenant()
    await lose(site)
    begun = site.server.audit.begun
    await begun.tell()
    assert len(await notes(site)) == 1, "it may still run"
    site.clock.ahead = LOST_AFTER + timedelta(seconds=1)
    await asyncio.gather(begun.tell(), begun.tell())
    await site.server.audit.trail.written()
    site.clock.ahead = timedelta()
    found = (await operator.made("ListAuditEntries", **ACME, result=UNKNOWN)).audit_entries
    assert [(entry.actor, entry.action, entry.resource) for entry in found] == [
        ("tenants/acme/users/x", REVOKE, "tenants/acme/apiKeys/1")
    ]
    assert "12345678" not in str(found)
    assert await notes(site) == []
    assert (await operator.made("VerifyAuditChain", **ACME)).intact


async def test_a_note_holds_no_credential(site: TenantSite) -> None:
    await lose(site)
    assert "12345678" not in str(await Intruder(site).read("SELECT * FROM audit_begun"))


async def test_a_call_that_ended_leaves_no_note(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    await site_on_each.add_key()
    await failure_of_call(site_on_each.add_tenant())
    await site_on_each.list_keys()
    assert await notes(site_on_each) == []


async def test_what_can_not_be_noted_is_not_done(site: TenantSite, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise StorageUnavailable()

    monkeypatch.setattr(SqlBegunStore, "add_begun", away)
    assert (await failure_of_call(site.add_tenant())).reason == "STORAGE_UNAVAILABLE"
    listed = await site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest())
    assert not listed.tenants


async def test_no_call_that_changes_something_lasts_until_it_counts_as_lost() -> None:
    changing = [
        rule.max_s for method, rule in POLICY.items() if method.rpartition("/")[2].startswith(("Create", "Update"))
    ]
    assert changing
    assert all(max_s is not None and max_s < LOST_AFTER.total_seconds() for max_s in changing)
