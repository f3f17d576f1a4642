"""Content as a whole, in SQL: given out, erased, expired, and sealed again. Everything happens in bounded batches."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, and_, delete, exists, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.content import Erased
from redoma_chat.content_storage import ContentStorage
from redoma_chat.conversations import Conversation, MessageState
from redoma_chat.encryption import PLAIN_VERSION
from redoma_chat.errors import ContentUnreadable
from redoma_chat.names import Owner
from redoma_chat.rows import conversation_of, sealed_anew, settings_columns
from redoma_chat.store.base import StorePart, change, lowered
from redoma_chat.tables import CONVERSATIONS, MESSAGES
from redoma_kit.database import PLATFORM, Scope

C = CONVERSATIONS.c
M = MESSAGES.c
ROWS_A_BATCH = 100
# A message may take a mebibyte.
SEALED_A_BATCH = 20


class SqlContent(StorePart):
    """What the rights of people and the age of conversations ask for."""

    async def held_conversations(
        self, storage: ContentStorage, tenant: str, principal: str, after: str, limit: int
    ) -> list[tuple[Owner, Conversation]]:
        """Gives conversations with whose they are, in the order of their ids, from behind `after` on."""
        query = select(CONVERSATIONS).where(_of(C, tenant, principal), C.id > after).order_by(C.id).limit(limit)
        async with self._databases.of(storage).transaction(Scope.of(tenant)) as session:
            keys = await self._keys.reading(session, tenant)
            rows = (await session.execute(query)).mappings().all()
            return [(Owner(tenant, row["principal"], storage), conversation_of(cast(Any, row), keys)) for row in rows]

    async def erase_conversations(
        self, storage: ContentStorage, tenant: str, principal: str, before_us: int | None
    ) -> Erased:
        """Deletes a batch of conversations in which nothing was said since a time; zeros say that none is left."""
        old = _of(C, tenant, principal)
        if before_us is not None:
            later = exists().where(M.conversation_id == C.id, M.tenant == C.tenant, M.create_time_us >= before_us)
            old = and_(old, C.create_time_us < before_us, ~later)
        return await self._delete(storage, tenant, old)

    async def erase_messages(self, storage: ContentStorage, tenant: str, principal: str, before_us: int) -> Erased:
        """Deletes a batch of messages said before a time, and what their conversations were told then."""
        some = select(M.id, M.conversation_id).where(_of(M, tenant, principal), M.create_time_us < before_us)
        async with self._databases.of(storage).transaction(Scope.of(tenant)) as session:
            rows = (await session.execute(some.limit(ROWS_A_BATCH))).all()
            here = and_(C.tenant == tenant, C.id.in_({row.conversation_id for row in rows}))
            query = select(C.id, C.principal).where(here, C.create_time_us < before_us).with_for_update()
            for row in (await session.execute(query)).all():
                keys = await self._keys.writing(session, tenant)
                blank = settings_columns(Owner(tenant, row.principal), Conversation(id=row.id), keys)
                mine = update(CONVERSATIONS).where(C.tenant == tenant, C.id == row.id)
                await session.execute(mine.values(blank | lowered(CONVERSATIONS, keys.version)))
            gone = delete(MESSAGES).where(M.tenant == tenant, M.id.in_([row.id for row in rows]))
            return Erased(messages=await change(session, gone))

    async def expire_conversations(self, storage: ContentStorage, tenant: str, before_us: int) -> Erased:
        """Deletes a batch of conversations not changed since a time, save those where an answer streams."""
        streaming = exists().where(
            M.conversation_id == C.id, M.tenant == C.tenant, M.state == MessageState.STREAMING.value
        )
        return await self._delete(storage, tenant, and_(_of(C, tenant), C.update_time_us < before_us, ~streaming))

    async def _delete(self, storage: ContentStorage, tenant: str, which: ColumnElement[bool]) -> Erased:
        async with self._databases.of(storage).transaction(Scope.of(tenant)) as session:
            # Conversations are locked before their messages, as everywhere.
            query = select(C.id).where(which).limit(ROWS_A_BATCH).with_for_update()
            return await _delete_with_messages(session, tenant, list((await session.scalars(query)).all()))

    async def destroy_keys(self, storage: ContentStorage, tenant: str, before_us: int | None) -> Erased:
        """Destroys the versions of a tenant's key made before a time, with all content there is without a time.

        What was said since is sealed under a new version before that.
        """
        while (erased := await self._destroy_unused(storage, tenant, before_us)) is None:
            async with self._databases.of(storage).transaction(Scope.of(tenant)) as session:
                await self._keys.add_version(session, tenant)
            while await self.seal_batch(storage, tenant):
                continue
        return erased

    async def _destroy_unused(self, storage: ContentStorage, tenant: str, before_us: int | None) -> Erased | None:
        """Destroys keys as destroy_keys does; None if something that stays was sealed with one of them."""
        async with self._databases.of(storage).transaction(Scope.of(tenant)) as session:
            # Nobody writes with them until this transaction ends.
            versions = await self._keys.versions(session, tenant, before_us)
            erased = Erased()
            if before_us is None:
                # What came since the last batch.
                left = select(C.id).where(_of(C, tenant)).with_for_update()
                erased = await _delete_with_messages(session, tenant, list((await session.scalars(left)).all()))
            elif await _any_sealed_with(session, tenant, versions):
                return None
            await self._keys.destroy(session, tenant, versions)
            return erased + Erased(content_keys=len(versions))

    async def seal_batch(self, storage: ContentStorage, tenant: str = "") -> int:
        """Seals a batch of rows with the newest key: a tenant's that an older one sealed, or all tenants' plain ones.

        Gives how many.

        Raises:
            ContentUnreadable: A plain row can't be sealed, since its tenant's key is not to be had.
        """
        async with self._databases.of(storage).transaction(Scope.of(tenant) if tenant else PLATFORM) as session:
            newest = (await self._keys.writing(session, tenant)).version if tenant else PLAIN_VERSION + 1
            for table in (CONVERSATIONS, MESSAGES):
                stale = and_(table.c.key_version < newest, table.c.tenant == tenant if tenant else true())
                query = select(table).where(stale).limit(SEALED_A_BATCH).with_for_update(skip_locked=not tenant)
                rows = (await session.execute(query)).mappings().all()
                for row in rows:
                    await self._seal(session, table, row)
                if rows:
                    return len(rows)
        return 0

    async def _seal(self, session: AsyncSession, table: Table, row: Any) -> None:
        keys = await self._keys.writing(session, row["tenant"])
        try:
            columns = sealed_anew(row, table.name, keys)
        except ContentUnreadable:
            if row["key_version"] == PLAIN_VERSION:
                raise
            # Damaged, and unreadable with or without its key.
            columns = {"key_version": keys.version}
        mine = (table.c.tenant == row["tenant"], table.c.id == row["id"])
        await session.execute(update(table).where(*mine).values(columns))

    async def wrap_keys(self, storage: ContentStorage) -> tuple[int, int]:
        """Wraps content keys with the key that wraps now; gives how many it did, and how many it could not."""
        async with self._databases.of(storage).transaction(PLATFORM) as session:
            done = await self._keys.wrap_anew(session)
            return done, await self._keys.wrapped_by_others(session)


async def _any_sealed_with(session: AsyncSession, tenant: str, versions: Sequence[int]) -> bool:
    for table in (CONVERSATIONS, MESSAGES):
        query = select(table.c.id).where(table.c.tenant == tenant, table.c.key_version <= max(versions, default=-1))
        if (await session.execute(query.limit(1))).first() is not None:
            return True
    return False


async def _delete_with_messages(session: AsyncSession, tenant: str, conversation_ids: Sequence[str]) -> Erased:
    messages = delete(MESSAGES).where(M.tenant == tenant, M.conversation_id.in_(conversation_ids))
    conversations = delete(CONVERSATIONS).where(C.tenant == tenant, C.id.in_(conversation_ids))
    return Erased(messages=await change(session, messages), conversations=await change(session, conversations))


def _of(columns: Any, tenant: str, principal: str = "") -> ColumnElement[bool]:
    return and_(columns.tenant == tenant, columns.principal == principal if principal else true())
