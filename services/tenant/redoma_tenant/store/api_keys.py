"""API keys in SQL: what administrators do, the lookup of every call, and last uses."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, bindparam, insert, literal, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import AUTH, PLATFORM, Database, Scope
from redoma_kit.errors import ResourceNotFound
from redoma_tenant.api_keys import ApiKey, ApiKeyPosition, PrefixTaken
from redoma_tenant.authenticator import StoredCredential
from redoma_tenant.names import tenant_name
from redoma_tenant.store.schema import API_KEYS, TENANTS, UtcDateTime
from redoma_tenant.tenants import TenantState


class SqlApiKeyStore:
    """Keeps API keys in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_api_key(self, api_key: ApiKey, digest: str) -> None:
        """Adds a key with its hash.

        Raises:
            ResourceNotFound: The tenant is missing.
            PrefixTaken: Another key has its prefix.
        """
        values = {
            "id": api_key.id,
            "tenant_id": api_key.tenant,
            "display_name": api_key.display_name,
            "prefix": api_key.prefix,
            "digest": digest,
            "scopes": list(api_key.scopes),
            "expire_time": api_key.expire_time,
            "create_time": api_key.create_time,
        }
        try:
            async with self._database.transaction(Scope.of(api_key.tenant)) as session:
                await _check_tenant(session, api_key.tenant)
                await session.execute(insert(API_KEYS).values(values))
        except IntegrityError:
            raise PrefixTaken() from None

    async def list_api_keys(self, tenant: str, after: ApiKeyPosition | None, limit: int) -> Sequence[ApiKey]:
        """Gives at most `limit` keys, the newest first, those after `after`.

        Raises:
            ResourceNotFound: The tenant is missing.
        """
        columns = API_KEYS.c
        query = (
            select(API_KEYS)
            .where(columns.tenant_id == tenant)
            .order_by(columns.create_time.desc(), columns.id.desc())
            .limit(limit)
        )
        if after is not None:
            position = tuple_(literal(after.create_time, UtcDateTime), literal(after.id))
            query = query.where(tuple_(columns.create_time, columns.id) < position)
        async with self._database.transaction(Scope.of(tenant)) as session:
            await _check_tenant(session, tenant)
            return [_api_key(row) for row in (await session.execute(query)).mappings()]

    async def revoke_api_key(self, tenant: str, api_key: str, now: datetime) -> ApiKey | None:
        """Revokes a key unless it is revoked, and gives it as it is then; None if there is none."""
        columns = API_KEYS.c
        it = (columns.id == api_key, columns.tenant_id == tenant)
        async with self._database.transaction(Scope.of(tenant)) as session:
            await session.execute(update(API_KEYS).where(*it, columns.revoke_time.is_(None)).values(revoke_time=now))
            row = (await session.execute(select(API_KEYS).where(*it))).mappings().one_or_none()
        return None if row is None else _api_key(row)

    async def find_credential(self, prefix: str) -> StoredCredential | None:
        """Gives the key that has the prefix, in one query by a unique index."""
        query = (
            select(API_KEYS, TENANTS.c.state.label("tenant_state"), TENANTS.c.weight)
            .join(TENANTS, TENANTS.c.id == API_KEYS.c.tenant_id)
            .where(API_KEYS.c.prefix == prefix)
        )
        async with self._database.transaction(AUTH) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        return StoredCredential(_api_key(row), row["digest"], TenantState(row["tenant_state"]), row["weight"])

    async def write_last_uses(self, last_uses: Mapping[str, datetime]) -> None:
        """Sets the last use of keys by id, unless a later one is kept."""
        columns = API_KEYS.c
        at = bindparam("at", type_=UtcDateTime)
        statement = (
            update(API_KEYS)
            .where(columns.id == bindparam("key"), or_(columns.last_use_time.is_(None), columns.last_use_time < at))
            .values(last_use_time=at)
        )
        async with self._database.transaction(PLATFORM) as session:
            connection = await session.connection()
            await connection.execute(statement, [{"key": key, "at": time} for key, time in last_uses.items()])


async def _check_tenant(session: AsyncSession, tenant: str) -> None:
    if await session.scalar(select(TENANTS.c.id).where(TENANTS.c.id == tenant)) is None:
        raise ResourceNotFound(tenant_name(tenant))


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        tenant=row["tenant_id"],
        id=row["id"],
        display_name=row["display_name"],
        prefix=row["prefix"],
        scopes=tuple(row["scopes"]),
        expire_time=row["expire_time"],
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
        revoke_time=row["revoke_time"],
    )
