"""QuotaService: limits, plans and prices."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from redoma.tenant.v1 import quota_pb2 as pb
from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.quota_pb2 import AT_LIMIT_END, AT_LIMIT_FINISH, AT_LIMIT_UNSPECIFIED, Limits, Plan, Price, Quota
from tests.rpc.tenant.meter_site import MeterSite
from tests.rpc.tenant.tenant_site import TENANTS, TenantSite, failure_of_call


@pytest.fixture
async def meter(site_on_each: TenantSite) -> MeterSite:
    """A site with one tenant."""
    await site_on_each.add_tenant()
    return MeterSite(site_on_each)


async def update(meter: MeterSite, *paths: str, etag: str = "", **values: Any) -> Quota:
    """Updates the quota of acme."""
    quota = Quota(name="tenants/acme/quota", etag=etag, **values)
    request = pb.UpdateQuotaRequest(quota=quota, update_mask=FieldMask(paths=paths))
    return (await meter.operate("UpdateQuota", request)).quota  # type: ignore[no-any-return]


async def add_plan(meter: MeterSite, plan_id: str = "gold", **settings: Any) -> Plan:
    """Creates a plan."""
    request = pb.CreatePlanRequest(plan_id=plan_id, plan=Plan(**settings))
    return (await meter.operate("CreatePlan", request)).plan  # type: ignore[no-any-return]


async def update_plan(meter: MeterSite, *paths: str, **values: Any) -> Plan:
    """Updates the plan gold."""
    request = pb.UpdatePlanRequest(plan=Plan(name="plans/gold", **values), update_mask=FieldMask(paths=paths))
    return (await meter.operate("UpdatePlan", request)).plan  # type: ignore[no-any-return]


async def give_plan(meter: MeterSite, plan: str = "plans/gold") -> tenant_pb2.Tenant:
    """Gives acme a plan."""
    tenant = tenant_pb2.Tenant(name="tenants/acme", plan=plan)
    request = tenant_pb2.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=["plan"]))
    return (await meter.site.call(f"{TENANTS}UpdateTenant", request)).tenant  # type: ignore[no-any-return]


async def test_a_tenant_without_a_plan_has_no_limits(meter: MeterSite) -> None:
    quota = await meter.quota()
    assert quota == Quota(name="tenants/acme/quota", limits=Limits(), effective_limits=Limits(), etag="1")


async def test_own_limits_replace_the_plans_one_by_one(meter: MeterSite) -> None:
    await add_plan(meter, limits=Limits(tokens_per_day=5, tokens_per_month=9), at_limit=AT_LIMIT_FINISH)
    await give_plan(meter)
    quota = await meter.limit(tokens_per_day=0, requests_per_minute=3)
    assert quota.limits == Limits(tokens_per_day=0, requests_per_minute=3)
    assert quota.effective_limits == Limits(tokens_per_day=0, tokens_per_month=9, requests_per_minute=3)
    assert [state.limit for state in quota.states] == ["requests_per_minute", "tokens_per_day", "tokens_per_month"]
    assert quota.at_limit == AT_LIMIT_UNSPECIFIED
    assert not (await reserve_finishing(meter)).HasField("granted_output_tokens")


async def reserve_finishing(meter: MeterSite) -> Any:
    """Reserves with room for it."""
    await update(meter, "limits")
    return await meter.reserve("a", 1, 1)


async def test_a_mask_changes_and_takes_away_what_it_names(meter: MeterSite) -> None:
    await meter.limit(tokens_per_day=5, tokens_per_month=9)
    quota = await update(meter, "limits.tokens_per_day", limits=Limits(tokens_per_month=1))
    assert quota.limits == Limits(tokens_per_month=9)
    quota = await update(meter, limits=Limits(tokens_per_day=4))
    assert quota.limits == Limits(tokens_per_day=4, tokens_per_month=9)
    quota = await update(meter, "limits", limits=Limits(tokens_per_day=3))
    assert quota.limits == Limits(tokens_per_day=3)
    assert (await update(meter, at_limit=AT_LIMIT_END)).at_limit == AT_LIMIT_END
    quota = await update(meter, "*")
    assert (quota.limits, quota.at_limit) == (Limits(), AT_LIMIT_UNSPECIFIED)
    assert quota == await meter.quota()


async def test_a_change_of_something_older_is_refused(meter: MeterSite) -> None:
    etag = (await meter.quota()).etag
    await meter.limit(tokens_per_day=5)
    failure = await failure_of_call(update(meter, etag=etag, limits=Limits(tokens_per_day=6)))
    assert (failure.reason, failure.metadata) == ("ETAG_MISMATCH", {"etag": "2"})
    assert (await meter.quota()).limits.tokens_per_day == 5


@pytest.mark.parametrize("path", ["states", "limits.x", "name", "limits.tokens_per_day.x"])
async def test_masks_that_name_anything_else_are_refused(site: TenantSite, path: str) -> None:
    await site.add_tenant()
    assert (await failure_of_call(update(MeterSite(site), path))).metadata == {"field": "update_mask"}


async def test_limits_out_of_range_are_refused(site: TenantSite) -> None:
    await site.add_tenant()
    for value in (-1, 10**15 + 1):
        failure = await failure_of_call(MeterSite(site).limit(tokens_per_day=value))
        assert failure.metadata == {"field": "quota.limits.tokens_per_day"}


async def test_an_unknown_end_at_a_limit_is_refused(site: TenantSite) -> None:
    await site.add_tenant()
    failure = await failure_of_call(update(MeterSite(site), at_limit=9))
    assert failure.metadata == {"field": "quota.at_limit"}


async def test_a_tenant_reads_its_own_quota_and_changes_none(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    request = pb.GetQuotaRequest(name="tenants/-/quota")
    for scope in ("tenant.read", "tenant.admin"):
        response = await meter.operate("GetQuota", request, tenant="acme", scopes=[scope])
        assert response.quota.name == "tenants/acme/quota"
    refused = meter.operate("GetQuota", request, tenant="acme", scopes=["generate"])
    assert (await failure_of_call(refused)).reason == "SCOPE_MISSING"
    others = pb.GetQuotaRequest(name="tenants/globex/quota")
    refused = meter.operate("GetQuota", others, tenant="acme", scopes=["tenant.admin"])
    assert (await failure_of_call(refused)).reason == "TENANT_MISMATCH"
    own = pb.UpdateQuotaRequest(quota=Quota(name="tenants/acme/quota"))
    refused = meter.operate("UpdateQuota", own, tenant="acme", scopes=["tenant.admin"])
    assert (await failure_of_call(refused)).reason == "SCOPE_MISSING"
    missing = pb.GetQuotaRequest(name="tenants/globex/quota")
    assert (await failure_of_call(meter.operate("GetQuota", missing))).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "acme", "tenants/acme", "tenants//quota", "tenants/acme/quota/", "plans/x/quota"])
async def test_malformed_names_are_refused(site: TenantSite, name: str) -> None:
    failure = await failure_of_call(MeterSite(site).operate("GetQuota", pb.GetQuotaRequest(name=name)))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": "name"})


async def test_a_plan_is_kept_as_created(meter: MeterSite) -> None:
    plan = await add_plan(meter, display_name="Gold", limits=Limits(concurrent_streams=4), warning_percents=[50, 100])
    assert (plan.name, plan.weight, plan.at_limit, plan.etag) == ("plans/gold", 100, AT_LIMIT_END, "1")
    assert list(plan.warning_percents) == [50, 100]
    assert (await meter.operate("GetPlan", pb.GetPlanRequest(name="plans/gold"))).plan == plan
    assert list((await add_plan(meter, "silver", weight=7)).warning_percents) == [80, 95]
    assert (await failure_of_call(add_plan(meter))).reason == "RESOURCE_EXISTS"


async def test_plans_are_listed_in_pages(meter: MeterSite) -> None:
    for plan_id in ("b", "a", "c"):
        await add_plan(meter, plan_id)
    first = await meter.operate("ListPlans", pb.ListPlansRequest(page_size=2))
    request = pb.ListPlansRequest(page_size=2, page_token=first.next_page_token)
    second = await meter.operate("ListPlans", request)
    assert [plan.name for plan in (*first.plans, *second.plans)] == ["plans/a", "plans/b", "plans/c"]
    assert second.next_page_token == ""


async def test_tenants_of_a_plan_have_its_changes_at_once(meter: MeterSite) -> None:
    await add_plan(meter, weight=7, limits=Limits(tokens_per_day=100))
    assert (await give_plan(meter)).weight == 7
    plan = await update_plan(meter, "weight", "limits.tokens_per_day", weight=9, limits=Limits(tokens_per_day=50))
    assert (plan.weight, plan.limits.tokens_per_day, plan.etag) == (9, 50, "2")
    assert (await failure_of_call(meter.reserve("a", 10, 90))).metadata["limit_value"] == "50"
    assert (await failure_of_call(update_plan(meter, etag="1", weight=3))).reason == "ETAG_MISMATCH"


async def test_a_plan_that_a_tenant_has_is_not_deleted(meter: MeterSite) -> None:
    await add_plan(meter)
    await give_plan(meter)
    request = pb.DeletePlanRequest(name="plans/gold")
    failure = await failure_of_call(meter.operate("DeletePlan", request))
    assert (failure.reason, failure.metadata["used_by"]) == ("RESOURCE_IN_USE", "tenants/acme")
    await give_plan(meter, "")
    await meter.operate("DeletePlan", request)
    assert (await failure_of_call(meter.operate("DeletePlan", request))).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"weight": 1_001}, "plan.weight"),
        ({"weight": -1}, "plan.weight"),
        ({"at_limit": 9}, "plan.at_limit"),
        ({"display_name": "a\nb"}, "plan.display_name"),
        ({"limits": Limits(tokens_per_day=-1)}, "plan.limits.tokens_per_day"),
        ({"warning_percents": [0]}, "plan.warning_percents"),
        ({"warning_percents": [80, 101]}, "plan.warning_percents"),
        ({"warning_percents": [80, 80]}, "plan.warning_percents"),
        ({"warning_percents": [90, 80]}, "plan.warning_percents"),
        ({"warning_percents": range(1, 10)}, "plan.warning_percents"),
    ],
)
async def test_settings_of_a_plan_out_of_range_are_refused(
    site: TenantSite, settings: dict[str, Any], field: str
) -> None:
    assert (await failure_of_call(add_plan(MeterSite(site), **settings))).metadata == {"field": field}


async def test_prices_are_set_listed_and_deleted(meter: MeterSite) -> None:
    await meter.set_price("m", 5, 4, 6)
    await meter.set_price("*", 1, 1, 1)
    await meter.set_price("m", 7, 0, 9)
    listed = (await meter.operate("ListPrices", pb.ListPricesRequest())).prices
    assert [(price.model, price.input_micros_per_million, price.currency) for price in listed] == [
        ("*", 1, "USD"),
        ("m", 7, "USD"),
    ]
    await meter.operate("DeletePrice", pb.DeletePriceRequest(model="m"))
    missing = meter.operate("DeletePrice", pb.DeletePriceRequest(model="m"))
    assert (await failure_of_call(missing)).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("price", "field"),
    [
        (Price(), "price.model"),
        (Price(model="x" * 129), "price.model"),
        (Price(model="m", input_micros_per_million=-1), "price.input_micros_per_million"),
        (Price(model="m", output_micros_per_million=10**11), "price.output_micros_per_million"),
        (Price(model="m", cached_input_micros_per_million=1), "price.cached_input_micros_per_million"),
    ],
)
async def test_prices_out_of_range_are_refused(site: TenantSite, price: Price, field: str) -> None:
    failure = await failure_of_call(MeterSite(site).operate("SetPrice", pb.SetPriceRequest(price=price)))
    assert failure.metadata == {"field": field}
