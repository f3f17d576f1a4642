"""What signing in reads: keys, identity providers, users and their tenants; and users made at first sign-in."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, insert, select
from sqlalchemy.exc import IntegrityError

from redoma_kit.database import AUTH, Database, Scope
from redoma_tenant.caller import TenantFacts
from redoma_tenant.errors import StateConflict
from redoma_tenant.key_sign_in import StoredKey
from redoma_tenant.oidc.claims import TrustedProvider
from redoma_tenant.oidc.sign_in import StoredUser
from redoma_tenant.store.schema import API_KEYS, IDENTITY_PROVIDERS, PLANS, TENANTS, USERS
from redoma_tenant.store.tenants import check_tenant, weight_in_force
from redoma_tenant.tenants import TenantState

TENANT_COLUMNS: tuple[ColumnElement[Any], ...] = (
    TENANTS.c.id.label("facts_id"),
    TENANTS.c.state.label("facts_state"),
    TENANTS.c.isolation.label("facts_isolation"),
    TENANTS.c.adapter.label("facts_adapter"),
    TENANTS.c.models.label("facts_models"),
    weight_in_force().label("facts_weight"),
)
HAS_PLAN = PLANS.c.id == TENANTS.c.plan_id
TENANTS_AND_PLANS = TENANTS.outerjoin(PLANS, HAS_PLAN)


class SqlSignInStore:
    """Looks up what credentials stand for, across tenants; each lookup is one query by an index."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_key(self, prefix: str) -> StoredKey | None:
        """Gives the key that has the prefix, with its tenant; operators' keys have none."""
        columns = API_KEYS.c
        # One after the other: SQLite would read all tenants for a join of the two in parentheses.
        keys_with_tenants = API_KEYS.outerjoin(TENANTS, TENANTS.c.id == columns.tenant_id).outerjoin(PLANS, HAS_PLAN)
        query = (
            select(
                columns.id,
                columns.digest,
                columns.scopes,
                columns.expire_time,
                columns.revoke_time,
                columns.last_use_time,
                columns.models,
                columns.cidrs,
                *TENANT_COLUMNS,
            )
            .select_from(keys_with_tenants)
            .where(columns.prefix == prefix)
        )
        row = await self._one(query)
        if row is None:
            return None
        return StoredKey(
            id=row["id"],
            digest=row["digest"],
            scopes=tuple(row["scopes"]),
            expire_time=row["expire_time"],
            is_revoked=row["revoke_time"] is not None,
            last_use_time=row["last_use_time"],
            models=tuple(row["models"]),
            cidrs=tuple(row["cidrs"]),
            tenant=_facts(row),
        )

    async def has_operator_key(self) -> bool:
        """Says whether an operator's key was ever made."""
        return await self._one(select(API_KEYS.c.id).where(API_KEYS.c.tenant_id.is_(None)).limit(1)) is not None

    async def find_providers(self, issuer: str) -> Sequence[TrustedProvider]:
        """Gives the identity providers of an issuer, one for each audience."""
        columns = IDENTITY_PROVIDERS.c
        async with self._database.transaction(AUTH) as session:
            rows = (await session.execute(select(IDENTITY_PROVIDERS).where(columns.issuer == issuer))).mappings().all()
        return [
            TrustedProvider(
                issuer=row["issuer"],
                audience=row["audience"],
                tenant=row["tenant_id"] or "",
                tenant_claim=row["tenant_claim"],
                roles_claim=row["roles_claim"],
                roles=row["roles"],
                default_role=row["default_role"],
                operator_role=row["operator_role"],
            )
            for row in rows
        ]

    async def find_tenant(self, tenant: str) -> TenantFacts | None:
        """Gives what identities say of a tenant."""
        query = select(*TENANT_COLUMNS).select_from(TENANTS_AND_PLANS).where(TENANTS.c.id == tenant)
        row = await self._one(query)
        return None if row is None else _facts(row)

    async def find_user(self, tenant: str, issuer: str, subject: str) -> StoredUser | None:
        """Gives a tenant's user by who he is to the issuer of his tokens."""
        columns = USERS.c
        row = await self._one(
            select(columns.id, columns.role, columns.state, columns.version).where(
                columns.tenant_id == tenant, columns.issuer == issuer, columns.subject == subject
            )
        )
        return None if row is None else StoredUser(row["id"], row["role"], row["state"] == "ACTIVE", row["version"])

    async def add_user(
        self, tenant: str, user: StoredUser, issuer: str, subject: str, display_name: str, now: datetime
    ) -> None:
        """Adds a user who signs in for the first time, unless another did or the tenant was deleted meanwhile."""
        values = {
            "id": user.id,
            "tenant_id": tenant,
            "issuer": issuer,
            "subject": subject,
            "display_name": display_name,
            "role": user.role,
            "state": "ACTIVE" if user.is_active else "DISABLED",
            "create_time": now,
            "update_time": now,
            "version": 1,
        }
        try:
            async with self._database.transaction(Scope.of(tenant)) as session:
                await check_tenant(session, tenant, for_more=True)
                await session.execute(insert(USERS).values(values))
        except (IntegrityError, StateConflict):
            return

    async def _one(self, query: Select[Any]) -> RowMapping | None:
        async with self._database.transaction(AUTH) as session:
            row: RowMapping | None = (await session.execute(query)).mappings().one_or_none()
        return row


def _facts(row: RowMapping) -> TenantFacts | None:
    if row["facts_id"] is None:
        return None
    return TenantFacts(
        id=row["facts_id"],
        is_active=row["facts_state"] == TenantState.ACTIVE.value,
        weight=row["facts_weight"],
        isolation=row["facts_isolation"],
        adapter=row["facts_adapter"],
        models=tuple(row["facts_models"]),
    )
