"""TenantService: what operators do with tenants."""

from typing import Any

import pytest

from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.tenant_pb2 import BlockedPattern, ContentChecks, Tenant
from tests.rpc.tenant.tenant_site import TENANTS, TenantSite, failure_of_call

MASK = BlockedPattern.ACTION_MASK


async def update(site: TenantSite, *paths: str, **values: Any) -> Tenant:
    """Updates acme."""
    request = tenant_pb2.UpdateTenantRequest(tenant=Tenant(name="tenants/acme", **values))
    request.update_mask.paths.extend(paths)
    response: tenant_pb2.UpdateTenantResponse = await site.call(f"{TENANTS}UpdateTenant", request)
    return response.tenant


async def get(site: TenantSite) -> Tenant:
    """Gets acme."""
    response = await site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme"))
    tenant: Tenant = response.tenant
    return tenant


async def test_a_tenant_is_kept_as_created(site: TenantSite) -> None:
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


async def test_a_tenant_id_is_used_once(site: TenantSite) -> None:
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


async def test_an_update_changes_what_the_mask_names(site: TenantSite) -> None:
    await site.add_tenant(display_name="old", weight=5, content_checks=ContentChecks(max_input_tokens=3))
    assert (await update(site, "weight", display_name="new", weight=6)).weight == 6
    tenant = await get(site)
    assert (tenant.display_name, tenant.content_checks.max_input_tokens) == ("old", 3)
    tenant = await update(site, "display_name", "content_checks")
    assert (tenant.display_name, tenant.weight, tenant.content_checks) == ("", 6, ContentChecks())
    assert await get(site) == tenant


async def test_an_update_without_a_mask_changes_what_is_set(site: TenantSite) -> None:
    await site.add_tenant(display_name="old", weight=5)
    tenant = await update(site, weight=6, state=Tenant.STATE_DISABLED)
    assert (tenant.display_name, tenant.weight, tenant.state) == ("old", 6, Tenant.STATE_ACTIVE)
    assert await update(site) == tenant


async def test_a_star_changes_everything_and_zero_is_the_default_weight(site: TenantSite) -> None:
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
    ):
        failure = await failure_of_call(site.call(f"{TENANTS}{method}", request))
        assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": "name"})


async def test_a_missing_tenant_is_not_found(site: TenantSite) -> None:
    for method, request in (
        ("GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme")),
        ("UpdateTenant", tenant_pb2.UpdateTenantRequest(tenant=Tenant(name="tenants/acme", weight=3))),
        ("DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme")),
        ("EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme")),
    ):
        failure = await failure_of_call(site.call(f"{TENANTS}{method}", request))
        assert (failure.reason, failure.metadata) == ("RESOURCE_NOT_FOUND", {"resource": "tenants/acme"})


async def test_disabling_and_enabling_twice_does_nothing_more(site: TenantSite) -> None:
    created = await site.add_tenant()
    for _ in range(2):
        response = await site.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
        assert response.tenant.state == Tenant.STATE_DISABLED
    for _ in range(2):
        response = await site.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme"))
        assert response.tenant == created


async def test_pages_give_every_tenant_once_in_order(site: TenantSite) -> None:
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
    await site.add_tenant()
