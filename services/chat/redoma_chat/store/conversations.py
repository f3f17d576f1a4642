"""Conversations in SQL."""

from typing import Any, cast

from sqlalchemy import Select, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.conversations import Conversation
from redoma_chat.names import Owner
from redoma_chat.rows import SEALED_COLUMNS, conversation_columns, conversation_of, settings_columns
from redoma_chat.store.base import StorePart, change, lowered, owned
from redoma_chat.tables import CONVERSATIONS

C = CONVERSATIONS.c


class SqlConversations(StorePart):
    """Keeps conversations."""

    async def create_conversation(self, owner: Owner, conversation: Conversation, request_id: str) -> Conversation:
        """Saves a conversation, or gives the one that the same request id made before."""
        try:
            async with self._databases.transaction(owner) as session:
                keys = await self._keys.writing(session, owner.tenant)
                columns = {**conversation_columns(owner, conversation, keys), "request_id": request_id or None}
                await session.execute(insert(CONVERSATIONS).values(columns))
        except IntegrityError:
            async with self._databases.transaction(owner) as session:
                query = select(CONVERSATIONS).where(owned(C, owner), C.request_id == request_id)
                row = (await session.execute(query)).mappings().one()
                return conversation_of(cast(Any, row), await self._keys.reading(session, owner.tenant))
        return conversation

    async def has_conversation(self, owner: Owner, conversation_id: str) -> bool:
        """Says whether a conversation lies where the owner says."""
        async with self._databases.transaction(owner) as session:
            query = select(C.id).where(owned(C, owner), C.id == conversation_id)
            return (await session.execute(query)).first() is not None

    async def get_conversation(self, owner: Owner, conversation_id: str) -> Conversation | None:
        """Gets a conversation."""
        query = select(CONVERSATIONS).where(owned(C, owner), C.id == conversation_id)
        async with self._databases.transaction(owner) as session:
            found = await self._read(session, owner, query)
        return found[0] if found else None

    async def page_of_conversations(
        self, owner: Owner, before: tuple[int, str] | None, limit: int
    ) -> list[Conversation]:
        """Lists conversations, the one changed last first, from behind (time, id) on."""
        query = select(CONVERSATIONS).where(owned(C, owner))
        if before is not None:
            changed_us, last_id = before
            query = query.where(
                or_(C.update_time_us < changed_us, and_(C.update_time_us == changed_us, C.id < last_id))
            )
        query = query.order_by(C.update_time_us.desc(), C.id.desc()).limit(limit)
        async with self._databases.transaction(owner) as session:
            return await self._read(session, owner, query)

    async def update_conversation(self, owner: Owner, changed: Conversation, fields: frozenset[str]) -> bool:
        """Saves the named fields and the time; says whether the conversation exists."""
        values: dict[str, object] = {"update_time_us": changed.update_time_us}
        if "model" in fields:
            values["model"] = changed.model
        sealed = fields & set(SEALED_COLUMNS["conversations"])
        async with self._databases.transaction(owner) as session:
            if sealed:
                keys = await self._keys.writing(session, owner.tenant)
                columns = settings_columns(owner, changed, keys)
                values |= {name: columns[name] for name in sealed} | lowered(CONVERSATIONS, keys.version)
            mine = update(CONVERSATIONS).where(owned(C, owner), C.id == changed.id)
            return await change(session, mine.values(values)) > 0

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> bool:
        """Deletes a conversation with its messages; says whether it existed."""
        async with self._databases.transaction(owner) as session:
            mine = delete(CONVERSATIONS).where(owned(C, owner), C.id == conversation_id)
            return await change(session, mine) > 0

    async def _read(self, session: AsyncSession, owner: Owner, query: Select[Any]) -> list[Conversation]:
        keys = await self._keys.reading(session, owner.tenant)
        return [conversation_of(cast(Any, row), keys) for row in (await session.execute(query)).mappings()]
