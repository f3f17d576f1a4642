"""QuotaService on the wire."""

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from redoma.tenant.v1 import quota_pb2, quota_pb2_grpc
from redoma_kit.identity import current_identity
from redoma_tenant.etags import etag_of
from redoma_tenant.limits import LIMIT_NAMES, AtLimit
from redoma_tenant.meter.money import Price
from redoma_tenant.names import parse_plan_name, parse_quota_name, quota_name
from redoma_tenant.plans import Plan, Plans, PlanSettings
from redoma_tenant.prices import Prices
from redoma_tenant.quota import LimitState, OwnQuota, Quota, Quotas
from redoma_tenant.servicers.field_masks import masked
from redoma_tenant.servicers.limits import AT_LIMITS, at_limit_in, limits_in, limits_message
from redoma_tenant.servicers.times import timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

LIMITS = frozenset({"limits", *(f"limits.{name}" for name in LIMIT_NAMES)})
QUOTA_MASKABLE = LIMITS | {"at_limit"}
PLAN_MASKABLE = LIMITS | {"display_name", "weight", "at_limit", "warning_percents"}


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Quotas, plans and prices."""

    def __init__(self, quotas: Quotas, plans: Plans, prices: Prices, currency: str) -> None:
        self._quotas = quotas
        self._plans = plans
        self._prices = prices
        self._currency = currency

    async def GetQuota(self, request: quota_pb2.GetQuotaRequest, context: "Context") -> quota_pb2.GetQuotaResponse:
        """Gets a tenant's limits, and how they stand."""
        tenant = parse_quota_name("name", request.name, current_identity())
        return quota_pb2.GetQuotaResponse(quota=_quota_message(await self._quotas.get(tenant)))

    async def UpdateQuota(
        self, request: quota_pb2.UpdateQuotaRequest, context: "Context"
    ) -> quota_pb2.UpdateQuotaResponse:
        """Changes a tenant's own limits."""
        wanted = request.quota
        tenant = parse_quota_name("quota.name", wanted.name, current_identity())
        names = _masked(wanted, request.update_mask.paths, QUOTA_MASKABLE)
        own = OwnQuota(limits_in(wanted.limits), at_limit_in("quota.at_limit", wanted.at_limit), 0)
        quota = await self._quotas.update(tenant, own, names, wanted.etag)
        return quota_pb2.UpdateQuotaResponse(quota=_quota_message(quota))

    async def CreatePlan(
        self, request: quota_pb2.CreatePlanRequest, context: "Context"
    ) -> quota_pb2.CreatePlanResponse:
        """Creates a plan."""
        plan = await self._plans.create(request.plan_id, _settings(request.plan))
        return quota_pb2.CreatePlanResponse(plan=_plan_message(plan))

    async def GetPlan(self, request: quota_pb2.GetPlanRequest, context: "Context") -> quota_pb2.GetPlanResponse:
        """Gets a plan."""
        plan = await self._plans.get(parse_plan_name("name", request.name))
        return quota_pb2.GetPlanResponse(plan=_plan_message(plan))

    async def ListPlans(self, request: quota_pb2.ListPlansRequest, context: "Context") -> quota_pb2.ListPlansResponse:
        """Lists plans."""
        page = await self._plans.list(request.page_size, request.page_token)
        return quota_pb2.ListPlansResponse(
            plans=[_plan_message(plan) for plan in page.items], next_page_token=page.next_page_token
        )

    async def UpdatePlan(
        self, request: quota_pb2.UpdatePlanRequest, context: "Context"
    ) -> quota_pb2.UpdatePlanResponse:
        """Changes a plan."""
        plan_id = parse_plan_name("plan.name", request.plan.name)
        names = _masked(request.plan, request.update_mask.paths, PLAN_MASKABLE)
        plan = await self._plans.update(plan_id, _settings(request.plan), names, request.plan.etag)
        return quota_pb2.UpdatePlanResponse(plan=_plan_message(plan))

    async def DeletePlan(
        self, request: quota_pb2.DeletePlanRequest, context: "Context"
    ) -> quota_pb2.DeletePlanResponse:
        """Deletes a plan."""
        await self._plans.delete(parse_plan_name("name", request.name))
        return quota_pb2.DeletePlanResponse()

    async def SetPrice(self, request: quota_pb2.SetPriceRequest, context: "Context") -> quota_pb2.SetPriceResponse:
        """Sets what tokens of a model cost."""
        wanted = request.price
        price = Price(
            wanted.input_micros_per_million, wanted.cached_input_micros_per_million, wanted.output_micros_per_million
        )
        await self._prices.set(wanted.model, price)
        return quota_pb2.SetPriceResponse(price=self._price_message(wanted.model, price))

    async def ListPrices(
        self, request: quota_pb2.ListPricesRequest, context: "Context"
    ) -> quota_pb2.ListPricesResponse:
        """Lists prices."""
        prices = (await self._prices.list()).prices
        return quota_pb2.ListPricesResponse(
            prices=[self._price_message(model, price) for model, price in prices.items()]
        )

    async def DeletePrice(
        self, request: quota_pb2.DeletePriceRequest, context: "Context"
    ) -> quota_pb2.DeletePriceResponse:
        """Deletes a price."""
        await self._prices.delete(request.model)
        return quota_pb2.DeletePriceResponse()

    def _price_message(self, model: str, price: Price) -> quota_pb2.Price:
        return quota_pb2.Price(
            model=model,
            input_micros_per_million=price.input_micros,
            cached_input_micros_per_million=price.cached_input_micros,
            output_micros_per_million=price.output_micros,
            currency=self._currency,
        )


def _masked(message: quota_pb2.Quota | quota_pb2.Plan, paths: Iterable[str], maskable: Set[str]) -> Set[str]:
    """Gives what a mask names; without one, of the limits only those that are set."""
    names = masked(message, paths, maskable)
    if list(paths) or "limits" not in names:
        return names
    return (names - {"limits"}) | {f"limits.{name}" for name in _set_fields(message.limits)}


def _set_fields(message: Message) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


def _settings(plan: quota_pb2.Plan) -> PlanSettings:
    return PlanSettings(
        display_name=plan.display_name,
        weight=plan.weight,
        limits=limits_in(plan.limits),
        at_limit=at_limit_in("plan.at_limit", plan.at_limit) or AtLimit.END,
        warning_percents=tuple(plan.warning_percents),
    )


def _plan_message(plan: Plan) -> quota_pb2.Plan:
    settings = plan.settings
    return quota_pb2.Plan(
        name=plan.name,
        display_name=settings.display_name,
        weight=settings.weight,
        limits=limits_message(settings.limits),
        at_limit=AT_LIMITS[settings.at_limit],
        warning_percents=settings.warning_percents,
        create_time=timestamp(plan.create_time),
        update_time=timestamp(plan.update_time),
        etag=etag_of(plan.version),
    )


def _quota_message(quota: Quota) -> quota_pb2.Quota:
    return quota_pb2.Quota(
        name=quota_name(quota.tenant),
        limits=limits_message(quota.own.limits),
        at_limit=quota_pb2.AT_LIMIT_UNSPECIFIED if quota.own.at_limit is None else AT_LIMITS[quota.own.at_limit],
        effective_limits=limits_message(quota.effective_limits),
        states=[_state_message(state) for state in quota.states],
        etag=etag_of(quota.own.version),
    )


def _state_message(state: LimitState) -> quota_pb2.LimitState:
    return quota_pb2.LimitState(
        limit=state.limit,
        limit_value=state.limit_value,
        used=state.used,
        reserved=state.reserved,
        reset_time=timestamp(state.reset_time),
        warning_percent=state.warning_percent,
    )
