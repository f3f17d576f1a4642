"""TenantService: what operators do with tenants."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import insert

from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.tenant_pb2 import BlockedPattern, ContentChecks, Tenant
from redoma_kit.database import PLATFORM
from redoma_tenant.privacy.erasures import Erasure, Subject
from redoma_tenant.store.erasures import SqlErasureStore
from redoma_tenant.store.schema import PLANS
from redoma_tenant.store.tenants import SqlTenantStore
from redoma_tenant.tenants import TenantState
from tests.rpc.tenant.changes import changes_of
from tests.rpc.tenant.tenant_site import CALL_TIMEOUT_S, SEND, TENANTS, TenantSite, failure_of_call, failure_or_none

DIGEST = "sha256:" + "9f" * 32
MASK = BlockedPattern.ACTION_MASK
TUNED = Tenant.ISOLATION_SHARED_TUNED


async def update(site: TenantSite, *paths: str, **values: Any) -> Tenant:
    """Updates acme."""
    request = tenant_pb2.UpdateTenantRequest(tenant=Tenant(name="tenants/acme", **values))
    request.update_mask.paths.extend(paths)
    response: tenant_pb2.UpdateTenantResponse = await site.call(f"{TENANTS}UpdateTenant", request)
    return response.tenant


async def delete(site: TenantSite, **values: Any) -> Tenant:
    """Deletes acme."""
    request = tenant_pb2.DeleteTenantRequest(name="tenants/acme", **values)
    response: tenant_pb2.DeleteTenantResponse = await site.call(f"{TENANTS}DeleteTenant", request)
    return response.tenant


async def undelete(site: TenantSite) -> Tenant:
    """Takes the deletion of acme back."""
    request = tenant_pb2.UndeleteTenantRequest(name="tenants/acme")
    response: tenant_pb2.UndeleteTenantResponse = await site.call(f"{TENANTS}UndeleteTenant", request)
    return response.tenant


async def add_plan(site: TenantSite, plan: str, weight: int) -> None:
    """Adds a plan."""
    now = datetime.now(UTC)
    values = {
        "id": plan,
        "display_name": "",
        "weight": weight,
        "limits": {},
        "at_limit": "END",
        "warning_percents": [],
        "create_time": now,
        "update_time": now,
        "version": 1,
    }
    async with site.server.database.transaction(PLATFORM) as session:
        await session.execute(insert(PLANS).values(values))


async def get(site: TenantSite) -> Tenant:
    """Gets acme."""
    response = await site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme"))
    tenant: Tenant = response.tenant
    return tenant


async def test_a_tenant_is_kept_as_created(site_on_each: TenantSite) -> None:
    site = site_on_each
    checks = ContentChecks(max_input_tokens=9, blocked_patterns=[BlockedPattern(text="Ação 👩‍💻", action=MASK)])
    created = await site.add_tenant(
        name="tenants/ignored", display_name="Acme 👩‍💻", state=Tenant.STATE_DISABLED, content_checks=checks
    )
    assert created.name == "tenants/acme"
    assert created.state == Tenant.STATE_ACTIVE
    assert created.weight == 100
    assert created.HasField("create_time")
    assert created.content_checks == checks
    assert await get(site) == created


async def test_a_tenant_survives_a_restart(site: TenantSite) -> None:
    created = await site.add_tenant(weight=7)
    await site.stop()
    await site.start()
    assert await get(site) == created


async def test_a_tenant_id_is_used_once(site_on_each: TenantSite) -> None:
    site = site_on_each
    await site.add_tenant(display_name="first")
    failure = await failure_of_call(site.add_tenant(display_name="second"))
    assert (failure.reason, failure.metadata) == ("RESOURCE_EXISTS", {"resource": "tenants/acme"})
    assert (await get(site)).display_name == "first"


@pytest.mark.parametrize(
    "tenant_id", ["", "-", "a-", "-a", "1a", "A", "a_b", "a/b", "a" * 64, "acme\n", "ácme", "..", "a\0"]
)
async def test_malformed_tenant_ids_are_refused(site: TenantSite, tenant_id: str) -> None:
    failure = await failure_of_call(site.add_tenant(tenant_id))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": "tenant_id"})


@pytest.mark.parametrize("tenant_id", ["a", "a1", "a-b", "a" * 63])
async def test_tenant_ids_at_the_limits_are_taken(site: TenantSite, tenant_id: str) -> None:
    assert (await site.add_tenant(tenant_id)).name == f"tenants/{tenant_id}"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"display_name": "x" * 201}, "tenant.display_name"),
        ({"display_name": "a\nb"}, "tenant.display_name"),
        ({"display_name": "a\0b"}, "tenant.display_name"),
        ({"weight": -1}, "tenant.weight"),
        ({"weight": 1001}, "tenant.weight"),
        ({"content_checks": ContentChecks(max_input_tokens=-1)}, "tenant.content_checks.max_input_tokens"),
        (
            {"content_checks": ContentChecks(blocked_patterns=[BlockedPattern(text="a", action=MASK)] * 65)},
            "tenant.content_checks.blocked_patterns",
        ),
        (
            {"content_checks": ContentChecks(blocked_patterns=[BlockedPattern(text="", action=MASK)])},
            "tenant.content_checks.blocked_patterns[0].text",
        ),
        (
            {"content_checks": ContentChecks(blocked_patterns=[BlockedPattern(text="a" * 257, action=MASK)])},
            "tenant.content_checks.blocked_patterns[0].text",
        ),
        ({"plan": "gold"}, "tenant.plan"),
        ({"plan": "plans/"}, "tenant.plan"),
        ({"isolation": 9}, "tenant.isolation"),
        ({"isolation": TUNED}, "tenant.adapter"),
        ({"adapter": DIGEST}, "tenant.adapter"),
        ({"isolation": Tenant.ISOLATION_DEDICATED, "adapter": DIGEST}, "tenant.adapter"),
        ({"isolation": TUNED, "adapter": "sha256:abc"}, "tenant.adapter"),
        ({"isolation": TUNED, "adapter": DIGEST.upper()}, "tenant.adapter"),
        ({"models": ["m"] * 65}, "tenant.models"),
        ({"models": ["m", "two words"]}, "tenant.models[1]"),
        ({"models": [""]}, "tenant.models[0]"),
        ({"region": "EU"}, "tenant.region"),
        ({"region": "x" * 64}, "tenant.region"),
        ({"retention": Duration(seconds=3599)}, "tenant.retention"),
        ({"retention": Duration(seconds=-1)}, "tenant.retention"),
        ({"retention": Duration(seconds=4000 * 86_400)}, "tenant.retention"),
        ({"retention": Duration(seconds=2**62)}, "tenant.retention"),
        ({"content_storage": 9}, "tenant.content_storage"),
        (
            {"content_checks": ContentChecks(blocked_patterns=[BlockedPattern(text="a")])},
            "tenant.content_checks.blocked_patterns[0].action",
        ),
    ],
)
async def test_settings_out_of_range_are_refused(site: TenantSite, settings: dict[str, Any], field: str) -> None:
    assert (await failure_of_call(site.add_tenant(**settings))).metadata == {"field": field}
    await site.add_tenant()
    assert (await failure_of_call(update(site, "*", **settings))).metadata == {"field": field}


async def test_an_update_changes_what_the_mask_names(site_on_each: TenantSite) -> None:
    site = site_on_each
    await site.add_tenant(display_name="old", weight=5, content_checks=ContentChecks(max_input_tokens=3))
    assert (await update(site, "weight", display_name="new", weight=6)).weight == 6
    tenant = await get(site)
    assert (tenant.display_name, tenant.content_checks.max_input_tokens) == ("old", 3)
    tenant = await update(site, "display_name", "content_checks")
    assert (tenant.display_name, tenant.weight, tenant.content_checks) == ("", 6, ContentChecks())
    assert await get(site) == tenant


async def test_an_update_without_a_mask_changes_what_is_set(site_on_each: TenantSite) -> None:
    site = site_on_each
    await site.add_tenant(display_name="old", weight=5)
    tenant = await update(site, weight=6, state=Tenant.STATE_DISABLED)
    assert (tenant.display_name, tenant.weight, tenant.state) == ("old", 6, Tenant.STATE_ACTIVE)
    assert await update(site) == tenant


async def test_a_star_changes_everything_and_zero_is_the_default_weight(site_on_each: TenantSite) -> None:
    site = site_on_each
    await site.add_tenant(display_name="old", weight=5, content_checks=ContentChecks(max_input_tokens=3))
    tenant = await update(site, "*")
    assert (tenant.display_name, tenant.weight, tenant.content_checks) == ("", 100, ContentChecks())


@pytest.mark.parametrize("path", ["state", "name", "create_time", "content_checks.max_input_tokens", "", "weight.x"])
async def test_masks_that_name_anything_else_are_refused(site: TenantSite, path: str) -> None:
    await site.add_tenant()
    assert (await failure_of_call(update(site, "weight", path, weight=9))).metadata == {"field": "update_mask"}
    assert (await get(site)).weight == 100


@pytest.mark.parametrize(
    "name", ["", "acme", "tenants", "tenants/", "tenants/-", "tenants/a/b", "tenant/acme", "x" * 5000]
)
async def test_malformed_names_are_refused(site: TenantSite, name: str) -> None:
    for method, request in (
        ("GetTenant", tenant_pb2.GetTenantRequest(name=name)),
        ("DisableTenant", tenant_pb2.DisableTenantRequest(name=name)),
        ("EnableTenant", tenant_pb2.EnableTenantRequest(name=name)),
        ("DeleteTenant", tenant_pb2.DeleteTenantRequest(name=name)),
        ("UndeleteTenant", tenant_pb2.UndeleteTenantRequest(name=name)),
    ):
        failure = await failure_of_call(site.call(f"{TENANTS}{method}", request))
        assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": "name"})


async def test_a_missing_tenant_is_not_found(site_on_each: TenantSite) -> None:
    site = site_on_each
    for method, request in (
        ("GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme")),
        ("UpdateTenant", tenant_pb2.UpdateTenantRequest(tenant=Tenant(name="tenants/acme", weight=3))),
        ("DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme")),
        ("EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme")),
        ("DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/acme")),
        ("UndeleteTenant", tenant_pb2.UndeleteTenantRequest(name="tenants/acme")),
    ):
        failure = await failure_of_call(site.call(f"{TENANTS}{method}", request))
        assert (failure.reason, failure.metadata) == ("RESOURCE_NOT_FOUND", {"resource": "tenants/acme"})


async def test_disabling_and_enabling_twice_does_nothing_more(site_on_each: TenantSite) -> None:
    site = site_on_each
    created = await site.add_tenant()
    for _ in range(2):
        response = await site.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
        assert (response.tenant.state, response.tenant.etag) == (Tenant.STATE_DISABLED, "2")
    for _ in range(2):
        response = await site.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme"))
        assert (response.tenant.state, response.tenant.etag) == (Tenant.STATE_ACTIVE, "3")
    assert response.tenant.create_time == created.create_time


async def test_pages_give_every_tenant_once_in_order(site_on_each: TenantSite) -> None:
    site = site_on_each
    ids = [f"t{number:02}" for number in range(7)]
    for tenant_id in reversed(ids):
        await site.add_tenant(tenant_id)
    for size in (1, 2, 3, 7, 1000, 5000):
        listed, token, pages = [], "", 0
        while pages == 0 or token:
            request = tenant_pb2.ListTenantsRequest(page_size=size, page_token=token)
            response = await site.call(f"{TENANTS}ListTenants", request)
            listed += [tenant.name.removeprefix("tenants/") for tenant in response.tenants]
            token, pages = response.next_page_token, pages + 1
        assert listed == ids
        assert pages == -(-len(ids) // size)


@pytest.mark.parametrize("token", ["x", "!!", "AAAA", "W10", "x" * 100_000, "ню", "bnVsbA", "WyJ0ZW5hbnRzIiwiLi4iXQ"])
async def test_garbage_page_tokens_are_refused(site: TenantSite, token: str) -> None:
    call = site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(page_token=token))
    assert (await failure_of_call(call)).metadata == {"field": "page_token"}


async def test_a_negative_page_size_is_refused(site: TenantSite) -> None:
    call = site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(page_size=-1))
    assert (await failure_of_call(call)).metadata == {"field": "page_size"}


async def test_a_broken_database_is_unavailable_in_neutral_words(site: TenantSite) -> None:
    await site.server.database.close()
    site.database_file.parent.rename(site.folder / "away")
    failure = await failure_of_call(site.add_tenant())
    assert failure.reason == "STORAGE_UNAVAILABLE"
    assert failure.retry_after_s == 1.0
    assert "sqlite" not in failure.message.lower()
    assert "No such file" in site.log_text.getvalue()
    (site.folder / "away").rename(site.database_file.parent)
    async with asyncio.timeout(CALL_TIMEOUT_S):
        while (outcome := await failure_or_none(site.add_tenant())) is not None:  # noqa: ASYNC110 (the client's wait)
            # As a client is told to. What was refused meanwhile is written to the audit trail first.
            await asyncio.sleep(outcome.retry_after_s or 0.0)


async def test_every_setting_is_kept(site_on_each: TenantSite) -> None:
    await add_plan(site_on_each, "gold", 300)
    settings: dict[str, Any] = {
        "display_name": "Acme",
        "plan": "plans/gold",
        "isolation": TUNED,
        "adapter": DIGEST,
        "models": ["qwen", "hf.co/org/model:Q4_K_M"],
        "region": "eu-west",
        "retention": Duration(seconds=7200),
        "tuning_consent": True,
        "content_storage": Tenant.CONTENT_STORAGE_PRIVATE,
    }
    created = await site_on_each.add_tenant(**settings)
    for name, value in settings.items():
        assert getattr(created, name) == value, name
    assert (created.weight, created.etag) == (300, "1")
    assert created.update_time == created.create_time
    assert await get(site_on_each) == created
    cleared = await update(site_on_each, "*")
    assert cleared.isolation == Tenant.ISOLATION_SHARED
    assert cleared.content_storage == Tenant.CONTENT_STORAGE_PUBLIC
    assert not cleared.HasField("retention")
    assert (cleared.plan, cleared.adapter, list(cleared.models), cleared.weight) == ("", "", [], 100)


async def test_the_weight_told_is_the_one_in_force(site_on_each: TenantSite) -> None:
    await add_plan(site_on_each, "gold", 300)
    await site_on_each.add_tenant(plan="plans/gold", weight=5)
    assert (await update(site_on_each, "weight")).weight == 300
    assert (await update(site_on_each, "plan")).weight == 100
    response = await site_on_each.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest())
    assert [tenant.weight for tenant in response.tenants] == [100]


async def test_a_plan_that_is_gone_is_not_a_tenant_that_exists(site_on_each: TenantSite) -> None:
    failure = await failure_of_call(site_on_each.add_tenant(plan="plans/gold"))
    assert failure.metadata == {"field": "tenant.plan"}
    await site_on_each.add_tenant()
    assert (await failure_of_call(update(site_on_each, plan="plans/gold"))).metadata == {"field": "tenant.plan"}
    assert (await failure_of_call(site_on_each.add_tenant(plan="plans/gold"))).reason in (
        "RESOURCE_EXISTS",
        "INVALID_FIELD",
    )


async def test_isolation_and_adapter_are_judged_together_with_what_is_kept(site: TenantSite) -> None:
    await site.add_tenant(isolation=TUNED, adapter=DIGEST)
    failure = await failure_of_call(update(site, isolation=Tenant.ISOLATION_SHARED))
    assert failure.metadata == {"field": "tenant.adapter"}
    tenant = await update(site, "isolation", "adapter")
    assert (tenant.isolation, tenant.adapter) == (Tenant.ISOLATION_SHARED, "")


async def test_what_no_mask_names_is_not_looked_at(site: TenantSite) -> None:
    await site.add_tenant()
    tenant = await update(site, "weight", weight=7, plan="nonsense", retention=Duration(seconds=1))
    assert (tenant.weight, tenant.plan) == (7, "")


async def test_an_etag_of_another_version_is_refused(site_on_each: TenantSite) -> None:
    created = await site_on_each.add_tenant()
    changed = await update(site_on_each, weight=7, etag=created.etag)
    assert changed.etag != created.etag
    failure = await failure_of_call(update(site_on_each, weight=8, etag=created.etag))
    assert (failure.reason, failure.metadata) == ("ETAG_MISMATCH", {"etag": changed.etag})
    assert (await failure_of_call(delete(site_on_each, etag="0"))).reason == "ETAG_MISMATCH"
    assert await get(site_on_each) == changed


async def test_of_parallel_writers_with_one_etag_one_wins(site_on_each: TenantSite) -> None:
    etag = (await site_on_each.add_tenant()).etag
    writers = [update(site_on_each, weight=weight, etag=etag) for weight in range(1, 9)]
    done = await asyncio.gather(*writers, return_exceptions=True)
    assert sum(isinstance(outcome, Tenant) for outcome in done) == 1
    assert (await get(site_on_each)).etag == "2"


async def test_parallel_writers_without_an_etag_lose_none_of_each_others_fields(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    changes: list[dict[str, Any]] = [
        {"display_name": "new"},
        {"weight": 9},
        {"region": "eu"},
        {"models": ["m"]},
        {"tuning_consent": True},
    ]
    await asyncio.gather(*(update(site_on_each, **change) for change in changes))
    tenant = await get(site_on_each)
    assert (
        tenant.display_name,
        tenant.weight,
        tenant.region,
        list(tenant.models),
        tenant.tuning_consent,
        tenant.etag,
    ) == (
        "new",
        9,
        "eu",
        ["m"],
        True,
        "6",
    )


async def test_a_deleted_tenant_is_refused_at_once_and_can_be_taken_back(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    deleted = await delete(site_on_each, grace=Duration(seconds=60))
    assert deleted.state == Tenant.STATE_DELETING
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(seconds=60)
    assert await delete(site_on_each, grace=Duration(), etag="1") == deleted
    for call in (
        update(site_on_each, weight=3),
        site_on_each.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme")),
        site_on_each.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme")),
        site_on_each.add_key(),
    ):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("STATE_CONFLICT", {"state": "STATE_DELETING"})
    restored = await undelete(site_on_each)
    assert restored.state == Tenant.STATE_ACTIVE
    assert not restored.HasField("delete_time")
    assert not restored.HasField("purge_time")
    assert (await failure_of_call(undelete(site_on_each))).reason == "STATE_CONFLICT"


async def test_a_deletion_is_taken_back_only_before_its_purge(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    await delete(site_on_each, grace=Duration(seconds=60))
    site_on_each.clock.ahead = timedelta(seconds=61)
    assert (await failure_of_call(undelete(site_on_each))).metadata == {"state": "STATE_DELETING"}


async def test_a_purge_that_begins_meanwhile_is_not_undone_by_who_read_before_it(site_on_each: TenantSite) -> None:
    database = site_on_each.server.database
    await site_on_each.add_tenant()
    await delete(site_on_each, grace=Duration(seconds=60))
    tenants, erasures = SqlTenantStore(database), SqlErasureStore(database)
    read = await tenants.find_tenant("acme")
    assert read is not None
    due = site_on_each.clock() + timedelta(seconds=61)
    assert await erasures.begin_purge(Erasure("0" * 32, Subject("acme"), "", due, ()), due)
    assert await tenants.change_tenant(replace(read, state=TenantState.ACTIVE, version=read.version + 1), "") is None
    assert (await failure_of_call(undelete(site_on_each))).metadata == {"state": "STATE_DELETING"}
    assert (await failure_of_call(site_on_each.add_tenant())).reason == "RESOURCE_EXISTS"


async def test_the_grace_is_thirty_days_unless_told(site: TenantSite) -> None:
    await site.add_tenant()
    for seconds in (-1, 90 * 86_400 + 1):
        failure = await failure_of_call(delete(site, grace=Duration(seconds=seconds)))
        assert failure.metadata == {"field": "grace"}
    deleted = await delete(site)
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(days=30)


async def test_every_change_of_a_tenant_is_noted_with_what_ends_its_calls(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    await update(site_on_each, weight=3)
    await update(site_on_each, weight=3)
    await site_on_each.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    await site_on_each.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme"))
    await delete(site_on_each)
    await undelete(site_on_each)
    reasons = ["", "TENANT_DISABLED", "", "TENANT_DISABLED", ""]
    assert await changes_of(site_on_each) == [("acme", "", reason) for reason in reasons]


async def test_content_policies_are_for_chat_and_need_no_identity(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant("acme", content_storage=Tenant.CONTENT_STORAGE_NONE)
    await site_on_each.add_tenant("globex", retention=Duration(seconds=3600))
    method, token = f"{TENANTS}ListContentPolicies", ""
    listed: list[tenant_pb2.ContentPolicy] = []
    while not listed or token:
        request = tenant_pb2.ListContentPoliciesRequest(page_size=1, page_token=token)
        response = await site_on_each.call_with(method, request, (), "chat")
        listed += response.content_policies
        token = response.next_page_token
    assert [policy.tenant for policy in listed] == ["tenants/acme", "tenants/globex"]
    assert listed[0].content_storage == Tenant.CONTENT_STORAGE_NONE
    assert not listed[0].HasField("retention")
    assert listed[1].content_storage == Tenant.CONTENT_STORAGE_PUBLIC
    assert listed[1].retention == Duration(seconds=3600)
    refused = site_on_each.call(method, tenant_pb2.ListContentPoliciesRequest())
    assert (await failure_of_call(refused)).reason == "METHOD_DENIED"


async def test_content_checks_tell_where_conversations_are_kept(site: TenantSite) -> None:
    await site.add_tenant(content_storage=Tenant.CONTENT_STORAGE_NONE)
    audience = ["chat", "model", "tenant"]
    metadata = site.pki.metadata(audience, tenant="acme", scopes=("generate",), method=SEND)
    response = await site.call_with(
        f"{TENANTS}GetContentChecks", tenant_pb2.GetContentChecksRequest(), metadata, "chat"
    )
    assert response.content_storage == Tenant.CONTENT_STORAGE_NONE


async def test_output_only_fields_of_a_tenant_are_ignored(site: TenantSite) -> None:
    time = Timestamp(seconds=1)
    created = await site.add_tenant(delete_time=time, purge_time=time, update_time=time, etag="77")
    assert (created.etag, created.HasField("delete_time"), created.HasField("purge_time")) == ("1", False, False)
    assert created.update_time == created.create_time
