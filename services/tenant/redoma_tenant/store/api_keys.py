"""API keys in SQL: what administrators do, and last uses."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_kit.errors import InvalidField
from redoma_tenant import names
from redoma_tenant.api_key import ApiKey
from redoma_tenant.api_keys import PrefixTaken
from redoma_tenant.errors import StateConflict
from redoma_tenant.limits import limits_from_json, limits_to_json
from redoma_tenant.pages import TimePlace
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.newest_first import newest_first
from redoma_tenant.store.schema import API_KEYS, USERS, UtcDateTime
from redoma_tenant.store.tenants import check_tenant


class SqlApiKeyStore:
    """Keeps API keys in a database. An empty tenant stands for operators."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_api_key(self, api_key: ApiKey, digest: str) -> None:
        """Adds a key with its hash.

        Raises:
            ResourceNotFound: The tenant is missing.
            InvalidField: The user is missing.
            StateConflict: The tenant is being deleted, or operators would be left without a lasting key.
            PrefixTaken: Another key has its prefix.
        """
        try:
            async with self._database.transaction(_scope(api_key.tenant)) as session:
                await _lock_operators(session, api_key.tenant)
                await _check_tenant(session, api_key.tenant)
                if not await _has_user(session, api_key):
                    raise _no_user(api_key)
                await _add(session, api_key, digest)
                await _check_operators(session, api_key.tenant)
        except IntegrityError:
            raise PrefixTaken() from None

    async def find_api_key(self, tenant: str, api_key: str) -> ApiKey | None:
        """Gives a key by id."""
        query = select(API_KEYS).where(API_KEYS.c.id == api_key, _is_of(tenant))
        async with self._database.transaction(_scope(tenant)) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else _api_key(row)

    async def list_api_keys(self, tenant: str, after: TimePlace | None, limit: int) -> Sequence[ApiKey]:
        """Gives at most `limit` keys, the newest first, those after `after`.

        Raises:
            ResourceNotFound: The tenant is missing.
        """
        keys = select(API_KEYS).where(_is_of(tenant))
        query = newest_first(keys, API_KEYS.c.create_time, API_KEYS.c.id, after, limit)
        async with self._database.transaction(_scope(tenant)) as session:
            if tenant:
                await check_tenant(session, tenant)
            return [_api_key(row) for row in (await session.execute(query)).mappings()]

    async def change_api_key(self, api_key: ApiKey, reason: str, now: datetime) -> bool:
        """Keeps a key in place of its version before and notes that; False if there is no such version any more.

        Raises:
            InvalidField: The user is missing.
            StateConflict: Operators would be left without a lasting key.
        """
        async with self._database.transaction(_scope(api_key.tenant)) as session:
            await _lock_operators(session, api_key.tenant)
            if not await _has_user(session, api_key) and await _is_newly_his(session, api_key):
                raise _no_user(api_key)
            if not await _change(session, api_key, reason, now):
                return False
            await _check_operators(session, api_key.tenant)
        return True

    async def rotate_api_key(self, former: ApiKey, api_key: ApiKey, digest: str, reason: str, now: datetime) -> bool:
        """Keeps `former` in place of its version before, notes that and adds a key; False if there is no such version.

        Raises:
            As `add_api_key`.
        """
        try:
            async with self._database.transaction(_scope(former.tenant)) as session:
                await _lock_operators(session, former.tenant)
                await _check_tenant(session, former.tenant)
                # A person's erasure comes before this or sees both keys. That of one who is gone goes on to work.
                await _has_user(session, former)
                if not await _change(session, former, reason, now):
                    return False
                await _add(session, api_key, digest)
                await _check_operators(session, former.tenant)
        except IntegrityError:
            raise PrefixTaken() from None
        return True

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
            # In the order in which others lock them.
            await connection.execute(statement, [{"key": key, "at": time} for key, time in sorted(last_uses.items())])


def _scope(tenant: str) -> Scope:
    return Scope.of(tenant) if tenant else PLATFORM


def _is_of(tenant: str) -> ColumnElement[bool]:
    return API_KEYS.c.tenant_id == tenant if tenant else API_KEYS.c.tenant_id.is_(None)


async def _add(session: AsyncSession, api_key: ApiKey, digest: str) -> None:
    values = _row(api_key) | {
        "id": api_key.id,
        "tenant_id": api_key.tenant or None,
        "prefix": api_key.prefix,
        "digest": digest,
        "scopes": list(api_key.scopes),
        "create_time": api_key.create_time,
    }
    await session.execute(insert(API_KEYS).values(values))


async def _change(session: AsyncSession, api_key: ApiKey, reason: str, now: datetime) -> bool:
    columns = API_KEYS.c
    former = (columns.id == api_key.id, _is_of(api_key.tenant), columns.version == api_key.version - 1)
    statement = update(API_KEYS).where(*former).values(_row(api_key)).returning(columns.id)
    if await session.scalar(statement) is None:
        return False
    await note_change(session, api_key.tenant, api_key.name, reason, now)
    return True


async def _check_tenant(session: AsyncSession, tenant: str) -> None:
    if tenant:
        await check_tenant(session, tenant, for_more=True)


async def _has_user(session: AsyncSession, api_key: ApiKey) -> bool:
    """Says whether there is the user that the key stands for, if any; he stays until the end of the transaction.

    Whoever locks tenants, users and keys locks them in this order.
    """
    if not api_key.user:
        return True
    it = (USERS.c.id == api_key.user, USERS.c.tenant_id == api_key.tenant)
    return await session.scalar(select(USERS.c.id).where(*it).with_for_update(read=True)) is not None


async def _is_newly_his(session: AsyncSession, api_key: ApiKey) -> bool:
    """Says whether the key stood for another user, or for none, before: it keeps one who is gone."""
    former = select(API_KEYS.c.user_id).where(API_KEYS.c.id == api_key.id, _is_of(api_key.tenant))
    return await session.scalar(former) != api_key.user


def _no_user(api_key: ApiKey) -> InvalidField:
    return InvalidField("api_key.user", f"{names.user_name(api_key.tenant, api_key.user)} does not exist.")


async def _lock_operators(session: AsyncSession, tenant: str) -> None:
    """Lets one transaction after the other change operators' keys, so that no two take each other's successor away.

    It locks them all, in one order: of those that last, two transactions may have seen different ones.
    """
    if not tenant:
        await session.execute(select(API_KEYS.c.id).where(_is_of("")).order_by(API_KEYS.c.id).with_for_update())


async def _check_operators(session: AsyncSession, tenant: str) -> None:
    if not tenant and await session.scalar(_lasting_operator_keys().limit(1)) is None:
        problem = "would be left without a key that works and never expires; make one first: redoma operator create."
        raise StateConflict(names.PLATFORM, "STATE_ACTIVE", problem)


def _lasting_operator_keys() -> Select[tuple[str]]:
    columns = API_KEYS.c
    return select(columns.id).where(
        columns.tenant_id.is_(None), columns.revoke_time.is_(None), columns.expire_time.is_(None)
    )


def _row(api_key: ApiKey) -> dict[str, Any]:
    return {
        "display_name": api_key.display_name,
        "expire_time": api_key.expire_time,
        "revoke_time": api_key.revoke_time,
        "models": list(api_key.models),
        "cidrs": list(api_key.cidrs),
        "limits": limits_to_json(api_key.limits),
        "user_id": api_key.user or None,
        "replaced_by": api_key.replaced_by or None,
        "version": api_key.version,
    }


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        tenant=row["tenant_id"] or "",
        id=row["id"],
        display_name=row["display_name"],
        prefix=row["prefix"],
        scopes=tuple(row["scopes"]),
        expire_time=row["expire_time"],
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
        revoke_time=row["revoke_time"],
        models=tuple(row["models"]),
        cidrs=tuple(row["cidrs"]),
        limits=limits_from_json(row["limits"]),
        user=row["user_id"] or "",
        replaced_by=row["replaced_by"] or "",
        version=row["version"],
    )
