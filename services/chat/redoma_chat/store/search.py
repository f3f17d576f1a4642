"""Searching conversations, in SQL that can't read them: texts are decrypted in batches, off the event loop."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, func, select

from redoma_chat.content_keys import TenantKeys
from redoma_chat.conversations import Conversation
from redoma_chat.names import Owner
from redoma_chat.rows import folded, unsealed
from redoma_chat.store.base import owned
from redoma_chat.store.conversations import SqlConversations
from redoma_chat.tables import MESSAGES

M = MESSAGES.c
CONVERSATIONS_A_BATCH = 50
MESSAGES_A_BATCH = 500
BYTES_A_BATCH = 2 << 20

Missing = dict[str, set[str]]


class SqlSearch(SqlConversations):
    """Lists conversations, with or without words to look for. No transaction is longer than a batch."""

    async def list_conversations(
        self, owner: Owner, before: tuple[int, str] | None, limit: int, words: tuple[str, ...]
    ) -> list[Conversation]:
        """Lists conversations that hold every word, the one changed last first, from behind (time, id) on."""
        if not words:
            return await self.page_of_conversations(owner, before, limit)
        wanted = frozenset(map(folded, words))
        found: list[Conversation] = []
        while len(found) < limit:
            page = await self.page_of_conversations(owner, before, CONVERSATIONS_A_BATCH)
            found += await self._holding(owner, page, wanted)
            if len(page) < CONVERSATIONS_A_BATCH:
                break
            before = page[-1].update_time_us, page[-1].id
        return found[:limit]

    async def _holding(self, owner: Owner, page: Sequence[Conversation], wanted: frozenset[str]) -> list[Conversation]:
        missing: Missing = {each.id: {word for word in wanted if word not in folded(each.title)} for each in page}
        sizes = await self._sizes(owner, [conversation_id for conversation_id, words in missing.items() if words])
        for batch in _batches(sizes):
            open_ids = [row["id"] for row in batch if missing[row["conversation_id"]]]
            if open_ids:
                columns = (M.id, M.tenant, M.principal, M.conversation_id, M.content)
                query = select(*columns).where(owned(M, owner), M.id.in_(open_ids))
                async with self._databases.transaction(owner) as session:
                    keys = await self._keys.reading(session, owner.tenant)
                    rows = (await session.execute(query)).mappings().all()
                await asyncio.to_thread(_strike, missing, rows, keys)
        return [each for each in page if not missing[each.id]]

    async def _sizes(self, owner: Owner, conversation_ids: Sequence[str]) -> Sequence[RowMapping]:
        columns = (M.id, M.conversation_id, func.length(M.content).label("bytes"))
        query = select(*columns).where(owned(M, owner), M.conversation_id.in_(conversation_ids))
        async with self._databases.transaction(owner) as session:
            return (await session.execute(query.order_by(M.conversation_id, M.id))).mappings().all()


def _batches(sizes: Iterable[RowMapping]) -> Iterator[list[RowMapping]]:
    batch: list[RowMapping] = []
    size_bytes = 0
    for row in sizes:
        if batch and (len(batch) == MESSAGES_A_BATCH or size_bytes + row["bytes"] > BYTES_A_BATCH):
            yield batch
            batch, size_bytes = [], 0
        batch.append(row)
        size_bytes += row["bytes"]
    if batch:
        yield batch


def _strike(missing: Missing, rows: Iterable[Mapping[Any, Any]], keys: TenantKeys) -> None:
    """Strikes the words out that messages hold."""
    for row in rows:
        words = missing[row["conversation_id"]]
        if words:
            text = folded(unsealed(row, "messages", "content", keys))
            words.difference_update([word for word in words if word in text])
