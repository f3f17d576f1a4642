"""Plans in SQL."""

from collections.abc import Sequence

from sqlalchemy import RowMapping, delete, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import ResourceExists
from redoma_tenant.errors import ResourceInUse
from redoma_tenant.limits import AtLimit, limits_from_json, limits_to_json
from redoma_tenant.names import plan_name, tenant_name
from redoma_tenant.plans import Plan, PlanSettings
from redoma_tenant.store.schema import CHANGES, PLANS, TENANTS, UtcDateTime

COLUMNS = PLANS.c


class SqlPlanStore:
    """Keeps plans in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_plan(self, plan: Plan) -> None:
        """Adds a plan, or raises ResourceExists."""
        values = _values(plan) | {"id": plan.id, "create_time": plan.create_time}
        try:
            async with self._database.transaction(PLATFORM) as session:
                await session.execute(insert(PLANS).values(values))
        except IntegrityError:
            raise ResourceExists(plan.name) from None

    async def find_plan(self, plan: str) -> Plan | None:
        """Gives a plan by id."""
        async with self._database.transaction(PLATFORM) as session:
            row = (await session.execute(select(PLANS).where(COLUMNS.id == plan))).mappings().one_or_none()
        return None if row is None else _plan(row)

    async def list_plans(self, after: str | None, limit: int) -> Sequence[Plan]:
        """Gives at most `limit` plans in the order of their ids, those after `after`."""
        query = select(PLANS).order_by(COLUMNS.id).limit(limit)
        if after is not None:
            query = query.where(COLUMNS.id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_plan(row) for row in (await session.execute(query)).mappings()]

    async def change_plan(self, plan: Plan) -> bool:
        """Keeps a plan in place of its version before, and says whether there was that version.

        Its weight is part of what its tenants' credentials stand for, so every one of them is told of.
        """
        former = (COLUMNS.id == plan.id, COLUMNS.version == plan.version - 1)
        statement = update(PLANS).where(*former).values(_values(plan)).returning(COLUMNS.id)
        of_plan = select(TENANTS.c.id, literal(""), literal(""), literal(plan.update_time, UtcDateTime)).where(
            TENANTS.c.plan_id == plan.id
        )
        changes = insert(CHANGES).from_select(["tenant_id", "principal", "reason", "time"], of_plan)

        async def work(session: AsyncSession) -> bool:
            if await session.scalar(statement) is None:
                return False
            await session.execute(changes)
            return True

        return await self._database.run(PLATFORM, work)

    async def delete_plan(self, plan: str) -> bool:
        """Deletes a plan, and says whether there was one. Raises ResourceInUse if a tenant has it."""
        try:
            async with self._database.transaction(PLATFORM) as session:
                gone = await session.execute(delete(PLANS).where(COLUMNS.id == plan).returning(COLUMNS.id))
                return gone.one_or_none() is not None
        except IntegrityError:
            raise ResourceInUse(plan_name(plan), await self._first_tenant(plan)) from None

    async def _first_tenant(self, plan: str) -> str:
        query = select(TENANTS.c.id).where(TENANTS.c.plan_id == plan).order_by(TENANTS.c.id).limit(1)
        async with self._database.transaction(PLATFORM) as session:
            return tenant_name(await session.scalar(query) or "-")


def _values(plan: Plan) -> dict[str, object]:
    settings = plan.settings
    return {
        "display_name": settings.display_name,
        "weight": settings.weight,
        "limits": limits_to_json(settings.limits),
        "at_limit": settings.at_limit.value,
        "warning_percents": list(settings.warning_percents),
        "update_time": plan.update_time,
        "version": plan.version,
    }


def _plan(row: RowMapping) -> Plan:
    settings = PlanSettings(
        display_name=row["display_name"],
        weight=row["weight"],
        limits=limits_from_json(row["limits"]),
        at_limit=AtLimit(row["at_limit"]),
        warning_percents=tuple(row["warning_percents"]),
    )
    return Plan(row["id"], settings, row["create_time"], row["update_time"], row["version"])
