"""Content keys in SQL: read at the head of every transaction that touches texts, and made at a tenant's first use."""

from collections.abc import Callable, Sequence

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.content_keys import ContentKeys, KeptKey, TenantKeys
from redoma_chat.key_provider import WrappedKey
from redoma_chat.tables import CONTENT_KEYS

K = CONTENT_KEYS.c


class SqlContentKeys:
    """Keeps content keys, wrapped. Who writes a text holds its key to the end of the transaction, against erasure."""

    def __init__(self, keys: ContentKeys, now_us: Callable[[], int]) -> None:
        self._keys = keys
        self._now_us = now_us

    async def reading(self, session: AsyncSession, tenant: str) -> TenantKeys:
        """Gives the keys to read a tenant's texts with."""
        return await self._keys.unwrapped(await _kept(session, _of(tenant)))

    async def writing(self, session: AsyncSession, tenant: str) -> TenantKeys:
        """Gives the keys to write a tenant's texts with, and makes the first if there is none."""
        kept = await _kept(session, _held(tenant))
        while not kept:
            # Another process may make it first, and a third may destroy that one before it is held.
            await self._add(session, tenant, 1)
            kept = await _kept(session, _held(tenant))
        return await self._keys.unwrapped(kept)

    async def held(self, session: AsyncSession, tenant: str) -> TenantKeys:
        """Gives the keys to write a tenant's texts with, if there are any: none are there when all was erased."""
        return await self._keys.unwrapped(await _kept(session, _held(tenant)))

    async def versions(self, session: AsyncSession, tenant: str, before_us: int | None) -> list[int]:
        """Gives the versions of a tenant's key made before a time. Nobody writes until the transaction ends."""
        rows = (await session.execute(_of(tenant).with_for_update())).all()
        return [row.version for row in rows if before_us is None or row.create_time_us < before_us]

    async def add_version(self, session: AsyncSession, tenant: str) -> None:
        """Makes a version that seals from now on."""
        newest = select(func.max(K.version)).where(K.tenant == tenant)
        await self._add(session, tenant, ((await session.execute(newest)).scalar_one() or 0) + 1)

    async def destroy(self, session: AsyncSession, tenant: str, versions: Sequence[int]) -> None:
        """Deletes versions of a tenant's key."""
        await session.execute(delete(CONTENT_KEYS).where(K.tenant == tenant, K.version.in_(versions)))
        self._keys.forget(tenant)

    async def wrap_anew(self, session: AsyncSession) -> int:
        """Wraps keys that another key wrapped with the one that wraps now; gives how many it did.

        What can't be unwrapped stays as it is.
        """
        others = select(CONTENT_KEYS).where(K.key_id != self._keys.key_id).order_by(K.tenant, K.version)
        changed = 0
        for kept in await _kept(session, others.with_for_update()):
            anew = await self._keys.wrapped_anew(kept)
            if anew is not None:
                mine = (K.tenant == kept.tenant, K.version == kept.version, K.key_id == kept.wrapped.key_id)
                values = {"key_id": anew.wrapped.key_id, "wrapped": anew.wrapped.data}
                await session.execute(update(CONTENT_KEYS).where(*mine).values(values))
                changed += 1
        return changed

    async def wrapped_by_others(self, session: AsyncSession) -> int:
        """Counts the keys that another key wrapped than the one that wraps now."""
        query = select(func.count()).select_from(CONTENT_KEYS).where(K.key_id != self._keys.key_id)
        return int((await session.execute(query)).scalar_one())

    async def _add(self, session: AsyncSession, tenant: str, version: int) -> None:
        made = await self._keys.make(tenant, version)
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        values = {
            "tenant": tenant,
            "version": version,
            "key_id": made.wrapped.key_id,
            "wrapped": made.wrapped.data,
            "create_time_us": self._now_us(),
        }
        # Another replica may make it at the same time: then both take the one that came first.
        await session.execute(dialect.insert(CONTENT_KEYS).values(values).on_conflict_do_nothing())


def _of(tenant: str) -> Select[tuple[str, int, str, bytes, int]]:
    return select(CONTENT_KEYS).where(K.tenant == tenant).order_by(K.version)


def _held(tenant: str) -> Select[tuple[str, int, str, bytes, int]]:
    # Writers do not wait for one another, and erasure waits for all of them.
    return _of(tenant).with_for_update(read=True, key_share=True)


async def _kept(session: AsyncSession, query: Select[tuple[str, int, str, bytes, int]]) -> list[KeptKey]:
    rows = (await session.execute(query)).all()
    return [KeptKey(row.tenant, row.version, WrappedKey(row.key_id, bytes(row.wrapped))) for row in rows]
