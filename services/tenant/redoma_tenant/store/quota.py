"""Quotas in SQL."""

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_tenant.limits import AtLimit, limits_from_json, limits_to_json
from redoma_tenant.meter.account import TenantTerms
from redoma_tenant.meter.counters import Counters
from redoma_tenant.quota import OwnQuota
from redoma_tenant.store.counters import read_counters
from redoma_tenant.store.schema import PLANS, TENANTS
from redoma_tenant.store.terms import TERMS_COLUMNS, tenant_terms


class SqlQuotaStore:
    """Keeps quotas in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_quota(self, tenant: str) -> tuple[OwnQuota, TenantTerms, Counters] | None:
        """Gives what a tenant has of its own, what is in force, and its counters; None if there is no such tenant."""
        query = (
            select(*TERMS_COLUMNS, TENANTS.c.quota_version)
            .select_from(TENANTS)
            .outerjoin(PLANS, PLANS.c.id == TENANTS.c.plan_id)
            .where(TENANTS.c.id == tenant)
        )

        async def work(session: AsyncSession) -> tuple[OwnQuota, TenantTerms, Counters] | None:
            row = (await session.execute(query)).mappings().one_or_none()
            if row is None:
                return None
            at_limit = AtLimit(row["at_limit"]) if row["at_limit"] else None
            own = OwnQuota(limits_from_json(row["limits"]), at_limit, row["quota_version"])
            return own, tenant_terms(row), await read_counters(session, tenant)

        return await self._database.run(Scope.of(tenant), work)

    async def change_quota(self, tenant: str, own: OwnQuota) -> bool:
        """Keeps a tenant's own in place of its version before, and says whether there was that version."""
        statement = (
            update(TENANTS)
            .where(TENANTS.c.id == tenant, TENANTS.c.quota_version == own.version - 1)
            .values(
                limits=limits_to_json(own.limits),
                at_limit=own.at_limit.value if own.at_limit else "",
                quota_version=own.version,
            )
            .returning(TENANTS.c.id)
        )

        async def work(session: AsyncSession) -> bool:
            return await session.scalar(statement) is not None

        return await self._database.run(PLATFORM, work)
