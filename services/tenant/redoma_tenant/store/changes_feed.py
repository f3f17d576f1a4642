"""The feed of changes as replicas read it, and the keys that expire."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, or_, select

from redoma_kit.database import AUTH, PLATFORM, Database
from redoma_tenant.change import Change, Expiry
from redoma_tenant.names import api_key_name
from redoma_tenant.store.schema import API_KEYS, CHANGES


class SqlChangeStore:
    """Reads the feed for all tenants."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_changes(self, after: int, others: Sequence[int]) -> Sequence[Change]:
        """Gives those after a position, and those at `others`, in the order of their positions."""
        columns = CHANGES.c
        wanted = columns.position > after
        if others:
            wanted = or_(wanted, columns.position.in_(others))
        query = select(CHANGES).where(wanted).order_by(columns.position)
        async with self._database.transaction(AUTH) as session:
            rows = (await session.execute(query)).all()
        return [Change(row.position, row.tenant_id, row.principal, row.reason, row.time) for row in rows]

    async def newest_position(self) -> int:
        """Gives the greatest position, 0 if there is none."""
        async with self._database.transaction(AUTH) as session:
            return await session.scalar(select(func.max(CHANGES.c.position))) or 0

    async def read_expiries(self, after: datetime, until: datetime) -> Sequence[Expiry]:
        """Gives the keys that expire after `after` and not after `until`, the earliest first; revoked ones excepted."""
        columns = API_KEYS.c
        query = (
            select(columns.tenant_id, columns.id, columns.expire_time)
            .where(columns.expire_time > after, columns.expire_time <= until, columns.revoke_time.is_(None))
            .order_by(columns.expire_time)
        )
        async with self._database.transaction(AUTH) as session:
            rows = (await session.execute(query)).all()
        return [Expiry(row.tenant_id or "", api_key_name(row.tenant_id or "", row.id), row.expire_time) for row in rows]

    async def prune_changes(self, before: datetime) -> None:
        """Deletes older ones, but never the newest: SQLite would give its position again."""
        newest = select(func.max(CHANGES.c.position)).scalar_subquery()
        statement = delete(CHANGES).where(CHANGES.c.time < before, CHANGES.c.position < newest)
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(statement)
