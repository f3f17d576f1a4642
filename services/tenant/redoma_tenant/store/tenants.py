"""Tenants in SQL."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_kit.errors import InvalidField, ResourceExists, ResourceNotFound
from redoma_tenant.content_checks import BlockedAction, BlockedPattern, ContentChecks
from redoma_tenant.errors import StateConflict
from redoma_tenant.identity import DEFAULT_WEIGHT
from redoma_tenant.names import plan_name, tenant_name
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.schema import PLANS, TENANTS
from redoma_tenant.tenant_profile import ContentStorage, Isolation, TenantProfile
from redoma_tenant.tenants import Tenant, TenantState


def weight_in_force() -> ColumnElement[int]:
    """Gives the tenant's own weight, else its plan's, else the default; for queries that join PLANS from outside."""
    return func.coalesce(func.nullif(TENANTS.c.weight, 0), PLANS.c.weight, DEFAULT_WEIGHT)


async def check_tenant(session: AsyncSession, tenant: str, *, for_more: bool = False) -> None:
    """Raises ResourceNotFound if the tenant is missing, StateConflict if more is to be added to one being deleted.

    Where more is to be added, the tenant stays as it is until the end of the transaction: a purge misses nothing.
    """
    query = select(TENANTS.c.state).where(TENANTS.c.id == tenant)
    state = await session.scalar(query.with_for_update(read=True) if for_more else query)
    if state is None:
        raise ResourceNotFound(tenant_name(tenant))
    if for_more and state == TenantState.DELETING.value:
        raise StateConflict(tenant_name(tenant), "STATE_DELETING", "is being deleted, so nothing is added to it.")


class SqlTenantStore:
    """Keeps tenants in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_tenant(self, tenant: Tenant) -> Tenant:
        """Adds a tenant and gives it as it is then.

        Raises:
            ResourceExists: There is one of that id.
            InvalidField: Its plan is missing.
        """
        values = _row(tenant) | {
            "id": tenant.id,
            "create_time": tenant.create_time,
            "limits": {},
            "at_limit": "",
            "quota_version": 1,
        }
        try:
            async with self._database.transaction(PLATFORM) as session:
                await session.execute(insert(TENANTS).values(values))
                return await _read(session, tenant.id)
        except IntegrityError:
            if await self.find_tenant(tenant.id) is None:
                raise _no_plan(tenant) from None
            raise ResourceExists(tenant.name) from None

    async def find_tenant(self, tenant: str) -> Tenant | None:
        """Gives a tenant by id."""
        async with self._database.transaction(Scope.of(tenant)) as session:
            row = (await session.execute(_tenants().where(TENANTS.c.id == tenant))).mappings().one_or_none()
        return None if row is None else _tenant(row)

    async def list_tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Gives at most `limit` tenants in the order of their ids, those after `after`, but those that were purged."""
        is_there = or_(TENANTS.c.state != TenantState.DELETING.value, TENANTS.c.purge_time.is_not(None))
        query = _tenants().where(is_there).order_by(TENANTS.c.id).limit(limit)
        if after is not None:
            query = query.where(TENANTS.c.id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_tenant(row) for row in (await session.execute(query)).mappings()]

    async def change_tenant(self, tenant: Tenant, reason: str) -> Tenant | None:
        """Keeps a tenant in place of its version before, notes the change, and gives it as it is then.

        None if there is no such version any more. `reason` ends its running calls.

        Raises:
            InvalidField: Its plan is missing.
        """
        former = (TENANTS.c.id == tenant.id, TENANTS.c.version == tenant.version - 1)
        statement = update(TENANTS).where(*former).values(_row(tenant)).returning(TENANTS.c.id)
        try:
            async with self._database.transaction(PLATFORM) as session:
                if await session.scalar(statement) is None:
                    return None
                await note_change(session, tenant.id, "", reason, tenant.update_time)
                return await _read(session, tenant.id)
        except IntegrityError:
            raise _no_plan(tenant) from None


def _tenants() -> Select[Any]:
    weight = weight_in_force().label("weight_in_force")
    return select(TENANTS, weight).outerjoin(PLANS, PLANS.c.id == TENANTS.c.plan_id)


async def _read(session: AsyncSession, tenant: str) -> Tenant:
    return _tenant((await session.execute(_tenants().where(TENANTS.c.id == tenant))).mappings().one())


def _no_plan(tenant: Tenant) -> InvalidField:
    return InvalidField("tenant.plan", f"{plan_name(tenant.profile.plan)} does not exist.")


def _row(tenant: Tenant) -> dict[str, Any]:
    profile = tenant.profile
    return {
        "display_name": profile.display_name,
        "state": tenant.state.value,
        "weight": profile.weight,
        "content_checks": _checks_to_json(profile.content_checks),
        "update_time": tenant.update_time,
        "version": tenant.version,
        "plan_id": profile.plan or None,
        "isolation": profile.isolation.value,
        "adapter": profile.adapter,
        "models": list(profile.models),
        "region": profile.region,
        "retention_s": 0 if profile.retention is None else profile.retention // timedelta(seconds=1),
        "tuning_consent": profile.tuning_consent,
        "content_storage": profile.content_storage.value,
        "delete_time": tenant.delete_time,
        "purge_time": tenant.purge_time,
    }


def _tenant(row: RowMapping) -> Tenant:
    profile = TenantProfile(
        display_name=row["display_name"],
        weight=row["weight"],
        content_checks=_checks_from_json(row["content_checks"]),
        plan=row["plan_id"] or "",
        isolation=Isolation(row["isolation"]),
        adapter=row["adapter"],
        models=tuple(row["models"]),
        region=row["region"],
        retention=timedelta(seconds=row["retention_s"]) if row["retention_s"] else None,
        tuning_consent=row["tuning_consent"],
        content_storage=ContentStorage(row["content_storage"]),
    )
    return Tenant(
        id=row["id"],
        profile=profile,
        state=TenantState(row["state"]),
        weight=row["weight_in_force"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        version=row["version"],
        delete_time=row["delete_time"],
        purge_time=row["purge_time"],
    )


def _checks_to_json(checks: ContentChecks) -> dict[str, Any]:
    return {
        "max_input_tokens": checks.max_input_tokens,
        "blocked_patterns": [
            {"text": pattern.text, "action": pattern.action.value} for pattern in checks.blocked_patterns
        ],
    }


def _checks_from_json(value: Mapping[str, Any]) -> ContentChecks:
    return ContentChecks(
        max_input_tokens=value["max_input_tokens"],
        blocked_patterns=tuple(
            BlockedPattern(pattern["text"], BlockedAction(pattern["action"])) for pattern in value["blocked_patterns"]
        ),
    )
