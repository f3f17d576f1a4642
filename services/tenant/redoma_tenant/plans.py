"""Plans: settings that many tenants have."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_tenant.etags import check_etag
from redoma_tenant.identity import DEFAULT_WEIGHT
from redoma_tenant.limits import NO_LIMITS, AtLimit, Limits
from redoma_tenant.meter.warnings import DEFAULT_WARNING_PERCENTS
from redoma_tenant.names import check_display_name, check_plan_id, plan_name
from redoma_tenant.pages import Page, read_page_by_id

MAX_WEIGHT = 1_000
MAX_WARNINGS = 8
COLLECTION = "plans"


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """All that operators set of a plan.

    Attributes:
        display_name: What people call it.
        weight: Share of the model of each of its tenants without one of their own; 0 is the default.
        limits: Of each of its tenants, where it sets none of its own.
        at_limit: What becomes of running answers at a limit.
        warning_percents: Of a limit, at which a warning is given; empty is the default.
    """

    display_name: str = ""
    weight: int = 0
    limits: Limits = field(default=NO_LIMITS)
    at_limit: AtLimit = AtLimit.END
    warning_percents: tuple[int, ...] = ()

    def checked(self, where: str) -> "PlanSettings":
        """Gives the settings with defaults filled in; `where` is the field of the request that holds them.

        Raises:
            InvalidField: A value is out of range.
        """
        check_display_name(f"{where}.display_name", self.display_name)
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise InvalidField(
                f"{where}.weight", f"is {self.weight}; it must be 1 to {MAX_WEIGHT}, or 0 for the default."
            )
        self.limits.check(f"{where}.limits")
        percents = self.warning_percents or DEFAULT_WARNING_PERCENTS
        is_rising = list(percents) == sorted(set(percents))
        if not is_rising or len(percents) > MAX_WARNINGS or not all(1 <= percent <= 100 for percent in percents):
            raise InvalidField(
                f"{where}.warning_percents", f"must be at most {MAX_WARNINGS} rising numbers of 1 to 100."
            )
        return replace(self, weight=self.weight or DEFAULT_WEIGHT, warning_percents=percents)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it is kept. `version` counts its changes."""

    id: str
    settings: PlanSettings
    create_time: datetime
    update_time: datetime
    version: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return plan_name(self.id)


class PlanStore(Protocol):
    """Where plans are kept. Every call may raise StorageUnavailable."""

    async def add_plan(self, plan: Plan) -> None:
        """Adds a plan, or raises ResourceExists."""

    async def find_plan(self, plan: str) -> Plan | None:
        """Gives a plan by id."""

    async def list_plans(self, after: str | None, limit: int) -> Sequence[Plan]:
        """Gives at most `limit` plans in the order of their ids, those after `after`."""
        ...

    async def change_plan(self, plan: Plan) -> bool:
        """Keeps a plan in place of its version before, and says whether there was that version."""
        ...

    async def delete_plan(self, plan: str) -> bool:
        """Deletes a plan, and says whether there was one. Raises ResourceInUse if a tenant has it."""
        ...


class Plans:
    """What operators do with plans."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: PlanStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, plan_id: str, settings: PlanSettings) -> Plan:
        """Creates a plan.

        Raises:
            InvalidField: The id or a setting can't be used.
            ResourceExists: There is a plan of that id.
        """
        check_plan_id("plan_id", plan_id)
        now = self._now()
        plan = Plan(plan_id, settings.checked("plan"), now, now)
        await self._store.add_plan(plan)
        return plan

    async def get(self, plan_id: str) -> Plan:
        """Gives a plan, or raises ResourceNotFound."""
        plan = await self._store.find_plan(plan_id)
        if plan is None:
            raise ResourceNotFound(plan_name(plan_id))
        return plan

    async def list(self, requested: int, token: str) -> Page[Plan]:
        """Gives a page of plans in the order of their ids.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        return await read_page_by_id((COLLECTION,), requested, token, self._store.list_plans)

    async def update(self, plan_id: str, wanted: PlanSettings, names: Set[str], etag: str) -> Plan:
        """Takes the settings that `names` names from `wanted`; `limits.x` is one of the limits.

        Raises:
            InvalidField: A setting can't be used.
            ResourceNotFound: There is no such plan.
            EtagMismatch: `etag` is that of another version.
        """
        while True:
            former = await self.get(plan_id)
            check_etag(former.name, etag, former.version)
            settings = _merged(former.settings, wanted, names).checked("plan")
            plan = replace(former, settings=settings, update_time=self._now(), version=former.version + 1)
            if await self._store.change_plan(plan):
                return plan

    async def delete(self, plan_id: str) -> None:
        """Deletes a plan.

        Raises:
            ResourceNotFound: There is no such plan.
            ResourceInUse: A tenant has it.
        """
        if not await self._store.delete_plan(plan_id):
            raise ResourceNotFound(plan_name(plan_id))


def _merged(former: PlanSettings, wanted: PlanSettings, names: Set[str]) -> PlanSettings:
    whole = {name: getattr(wanted, name) for name in names if "." not in name and name != "limits"}
    return replace(former, limits=former.limits.changed(wanted.limits, names), **whole)
