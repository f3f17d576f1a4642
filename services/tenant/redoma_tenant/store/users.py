"""Users in SQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import Database, Scope
from redoma_kit.errors import ResourceExists
from redoma_tenant.errors import StateConflict
from redoma_tenant.names import user_name
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.schema import TENANTS, USERS
from redoma_tenant.store.tenants import check_tenant
from redoma_tenant.users import REVOKED, Role, User, UserState


class SqlUserStore:
    """Keeps users in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_user(self, user: User) -> None:
        """Adds a user.

        Raises:
            ResourceNotFound: The tenant is missing.
            StateConflict: The tenant is being deleted.
            ResourceExists: The tenant has a user of that issuer and subject.
        """
        values = _row(user) | {
            "id": user.id,
            "tenant_id": user.tenant,
            "issuer": user.issuer,
            "subject": user.subject,
            "create_time": user.create_time,
        }
        try:
            async with self._database.transaction(Scope.of(user.tenant)) as session:
                await check_tenant(session, user.tenant, for_more=True)
                await session.execute(insert(USERS).values(values))
                # Whose tokens were refused for want of a user may be known as such.
                await note_change(session, user.tenant, "", "", user.create_time)
        except IntegrityError:
            raise ResourceExists(await self._name_of(user)) from None

    async def find_user(self, tenant: str, user: str) -> User | None:
        """Gives a user by id."""
        query = select(USERS).where(USERS.c.id == user, USERS.c.tenant_id == tenant)
        async with self._database.transaction(Scope.of(tenant)) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else _user(row)

    async def list_users(self, tenant: str, after: str | None, limit: int) -> Sequence[User]:
        """Gives at most `limit` users in the order of their ids, those after `after`.

        Raises:
            ResourceNotFound: The tenant is missing.
        """
        query = select(USERS).where(USERS.c.tenant_id == tenant).order_by(USERS.c.id).limit(limit)
        if after is not None:
            query = query.where(USERS.c.id > after)
        async with self._database.transaction(Scope.of(tenant)) as session:
            await check_tenant(session, tenant)
            return [_user(row) for row in (await session.execute(query)).mappings()]

    async def change_user(self, user: User, reason: str) -> bool:
        """Keeps a user in place of his version before and notes that; False if there is no such version any more.

        Raises:
            StateConflict: The tenant would be left without an owner.
        """
        async with self._database.transaction(Scope.of(user.tenant)) as session:
            owners = await _lock_owners(session, user.tenant)
            former = _is(user, user.version - 1)
            if await session.scalar(update(USERS).where(former).values(_row(user)).returning(USERS.c.id)) is None:
                return False
            if not _is_signing_in_owner(user):
                _check_owners(owners, user)
            await note_change(session, user.tenant, user.name, reason, user.update_time)
        return True

    async def delete_user(self, user: User, now: datetime) -> bool:
        """Deletes a user of that very version and notes that; False if there is no such version any more.

        Raises:
            StateConflict: He is the last owner.
        """
        async with self._database.transaction(Scope.of(user.tenant)) as session:
            owners = await _lock_owners(session, user.tenant)
            if await session.scalar(delete(USERS).where(_is(user, user.version)).returning(USERS.c.id)) is None:
                return False
            _check_owners(owners, user)
            await note_change(session, user.tenant, user.name, REVOKED, now)
        return True

    async def _name_of(self, user: User) -> str:
        columns = USERS.c
        it = (columns.tenant_id == user.tenant, columns.issuer == user.issuer, columns.subject == user.subject)
        async with self._database.transaction(Scope.of(user.tenant)) as session:
            return user_name(user.tenant, await session.scalar(select(columns.id).where(*it)) or user.id)


async def _lock_owners(session: AsyncSession, tenant: str) -> set[str]:
    """Gives the ids of the owners who may sign in, which no other transaction changes until the end of this one.

    It locks the tenant: of the owners, two transactions may have seen different ones.
    """
    await session.execute(select(TENANTS.c.id).where(TENANTS.c.id == tenant).with_for_update(key_share=True))
    return set(await session.scalars(_owners(tenant)))


def _owners(tenant: str) -> Select[tuple[str]]:
    columns = USERS.c
    return select(columns.id).where(
        columns.tenant_id == tenant, columns.role == Role.OWNER.value, columns.state == UserState.ACTIVE.value
    )


def _check_owners(owners: set[str], user: User) -> None:
    if owners == {user.id}:
        raise StateConflict(user.name, "STATE_ACTIVE", "is the last owner of the tenant; make another owner first.")


def _is_signing_in_owner(user: User) -> bool:
    return user.role is Role.OWNER and user.state is UserState.ACTIVE


def _is(user: User, version: int) -> ColumnElement[bool]:
    return (USERS.c.id == user.id) & (USERS.c.tenant_id == user.tenant) & (USERS.c.version == version)


def _row(user: User) -> dict[str, Any]:
    return {
        "display_name": user.display_name,
        "role": user.role.value,
        "state": user.state.value,
        "update_time": user.update_time,
        "version": user.version,
    }


def _user(row: RowMapping) -> User:
    return User(
        tenant=row["tenant_id"],
        id=row["id"],
        issuer=row["issuer"],
        subject=row["subject"],
        display_name=row["display_name"],
        role=Role(row["role"]),
        state=UserState(row["state"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        version=row["version"],
    )
