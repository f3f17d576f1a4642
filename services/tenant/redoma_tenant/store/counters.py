"""Counters of limits in SQL. Whoever changes any of a tenant's has locked the tenant's own row first."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_tenant.meter.account import WHOLE_TENANT
from redoma_tenant.meter.counters import Counters
from redoma_tenant.store.schema import QUOTA_COUNTERS
from redoma_tenant.store.upsert import upsert

COLUMNS = QUOTA_COUNTERS.c
NAMES = tuple(column.name for column in COLUMNS if not column.primary_key)


async def lock_counters(session: AsyncSession, tenant: str) -> Counters:
    """Locks a tenant's counters until the transaction ends, and gives its own. On SQLite this begins the writing."""
    locked = upsert(session, QUOTA_COUNTERS, lambda _: {"open_calls": COLUMNS.open_calls}).returning(*COLUMNS)
    result = await session.execute(locked, [_values(tenant, WHOLE_TENANT, Counters())])
    return counters_of(result.mappings().one())


async def read_counters(session: AsyncSession, tenant: str) -> Counters:
    """Gives a tenant's own counters."""
    query = select(QUOTA_COUNTERS).where(COLUMNS.tenant_id == tenant, COLUMNS.api_key_id == WHOLE_TENANT)
    row = (await session.execute(query)).mappings().one_or_none()
    return Counters() if row is None else counters_of(row)


async def write_counters(session: AsyncSession, tenant: str, counters: Mapping[str, Counters]) -> None:
    """Writes counters by the key's id."""
    statement = upsert(session, QUOTA_COUNTERS, lambda new: {name: new[name] for name in NAMES})
    connection = await session.connection()
    await connection.execute(statement, [_values(tenant, key, counters[key]) for key in sorted(counters)])


def counters_of(row: RowMapping) -> Counters:
    """Reads a row."""
    return Counters(**{name: row[name] for name in NAMES})


def _values(tenant: str, api_key_id: str, counters: Counters) -> dict[str, Any]:
    return {"tenant_id": tenant, "api_key_id": api_key_id} | asdict(counters)
