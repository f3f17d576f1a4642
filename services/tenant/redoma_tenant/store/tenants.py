"""Tenants in SQL."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_kit.errors import ResourceExists
from redoma_tenant.names import tenant_name
from redoma_tenant.store.schema import TENANTS
from redoma_tenant.tenants import (
    BlockedAction,
    BlockedPattern,
    ContentChecks,
    Tenant,
    TenantChanges,
    TenantState,
)


class SqlTenantStore:
    """Keeps tenants in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_tenant(self, tenant: Tenant) -> None:
        """Adds a tenant.

        Raises:
            ResourceExists: There is one of that id.
        """
        values = {
            "id": tenant.id,
            "display_name": tenant.display_name,
            "state": tenant.state.value,
            "weight": tenant.weight,
            "content_checks": _checks_to_json(tenant.content_checks),
            "create_time": tenant.create_time,
        }
        try:
            async with self._database.transaction(PLATFORM) as session:
                await session.execute(insert(TENANTS).values(values))
        except IntegrityError:
            raise ResourceExists(tenant_name(tenant.id)) from None

    async def find_tenant(self, tenant: str) -> Tenant | None:
        """Gives a tenant by id."""
        async with self._database.transaction(Scope.of(tenant)) as session:
            row = (await session.execute(select(TENANTS).where(TENANTS.c.id == tenant))).mappings().one_or_none()
        return None if row is None else _tenant(row)

    async def list_tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        """Gives at most `limit` tenants in the order of their ids, those after `after`."""
        query = select(TENANTS).order_by(TENANTS.c.id).limit(limit)
        if after is not None:
            query = query.where(TENANTS.c.id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_tenant(row) for row in (await session.execute(query)).mappings()]

    async def change_tenant(self, tenant: str, changes: TenantChanges, state: TenantState | None) -> Tenant | None:
        """Changes what is not None, and gives the tenant as it is then; None if there is none."""
        values: dict[str, Any] = {
            "display_name": changes.display_name,
            "weight": changes.weight,
            "content_checks": None if changes.content_checks is None else _checks_to_json(changes.content_checks),
            "state": None if state is None else state.value,
        }
        values = {name: value for name, value in values.items() if value is not None}
        async with self._database.transaction(Scope.of(tenant)) as session:
            if values:
                await session.execute(update(TENANTS).where(TENANTS.c.id == tenant).values(values))
            row = (await session.execute(select(TENANTS).where(TENANTS.c.id == tenant))).mappings().one_or_none()
        return None if row is None else _tenant(row)


def _tenant(row: RowMapping) -> Tenant:
    return Tenant(
        id=row["id"],
        display_name=row["display_name"],
        state=TenantState(row["state"]),
        weight=row["weight"],
        content_checks=_checks_from_json(row["content_checks"]),
        create_time=row["create_time"],
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
