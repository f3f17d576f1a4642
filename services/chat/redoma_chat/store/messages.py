"""Messages and the branches they make, in SQL."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import and_, func, literal, select

from redoma_chat.branch import BranchEntry
from redoma_chat.conversations import Message
from redoma_chat.inference import Role
from redoma_chat.names import Owner
from redoma_chat.rows import message_of, unsealed
from redoma_chat.store.base import StorePart, owned
from redoma_chat.tables import MESSAGES

M = MESSAGES.c
CONTENTS_A_QUERY = 500
# Forms of answers can be large, and only going on with an answer needs them.
LISTED = tuple(column for column in MESSAGES.c if column is not M.response_format)


class SqlMessages(StorePart):
    """Reads messages."""

    async def get_message(self, owner: Owner, conversation_id: str, message_id: str) -> Message | None:
        """Gets a message."""
        query = select(MESSAGES).where(owned(M, owner), M.conversation_id == conversation_id, M.id == message_id)
        async with self._databases.transaction(owner) as session:
            keys = await self._keys.reading(session, owner.tenant)
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else message_of(cast(Any, row), keys)

    async def list_messages(self, owner: Owner, conversation_id: str, after: str, limit: int) -> list[Message]:
        """Lists messages in the order of their ids, from behind `after` on."""
        query = (
            select(*LISTED)
            .where(owned(M, owner), M.conversation_id == conversation_id, M.id > after)
            .order_by(M.id)
            .limit(limit)
        )
        async with self._databases.transaction(owner) as session:
            keys = await self._keys.reading(session, owner.tenant)
            return [message_of(cast(Any, row), keys) for row in (await session.execute(query)).mappings()]

    async def branch(self, owner: Owner, conversation_id: str, tip: str) -> list[BranchEntry]:
        """Gives the messages from the root to `tip`, oldest first; empty where there is no such message."""
        mine = and_(owned(M, owner), M.conversation_id == conversation_id)
        columns = (M.id, M.parent_id, M.role, func.length(M.content).label("bytes"))
        path = select(*columns, literal(0).label("depth")).where(mine, M.id == tip).cte("path", recursive=True)
        path = path.union_all(
            select(*columns, path.c.depth + 1).join_from(MESSAGES, path, M.id == path.c.parent_id).where(mine)
        )
        query = select(path.c.id, path.c.role, path.c.bytes).order_by(path.c.depth.desc())
        async with self._databases.transaction(owner) as session:
            rows = (await session.execute(query)).all()
        return [BranchEntry(row.id, Role(row.role), row.bytes) for row in rows]

    async def contents(self, owner: Owner, message_ids: Sequence[str]) -> dict[str, str]:
        """Gives the texts of messages, by id."""
        found: dict[str, str] = {}
        columns = (M.id, M.tenant, M.principal, M.content)
        async with self._databases.transaction(owner) as session:
            keys = await self._keys.reading(session, owner.tenant)
            for first in range(0, len(message_ids), CONTENTS_A_QUERY):
                some = message_ids[first : first + CONTENTS_A_QUERY]
                query = select(*columns).where(owned(M, owner), M.id.in_(some))
                for row in (await session.execute(query)).mappings():
                    found[row["id"]] = unsealed(cast(Any, row), "messages", "content", keys)
        return found
