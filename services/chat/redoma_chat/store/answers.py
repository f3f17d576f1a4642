"""Answers in SQL, from their beginning to their end."""

from collections.abc import Sequence

from sqlalchemy import and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.conversations import Message, MessageState
from redoma_chat.inference import FinishReason
from redoma_chat.names import Owner
from redoma_chat.rows import answer_columns, checkpoint_columns, conversation_cell, message_columns
from redoma_chat.store.base import StorePart, change, owned
from redoma_chat.tables import CONVERSATIONS, MESSAGES
from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import ResourceNotFound

C = CONVERSATIONS.c
M = MESSAGES.c


class SqlAnswers(StorePart):
    """Keeps answers while they come."""

    async def begin_answer(self, owner: Owner, question: Message | None, answer: Message, title: str) -> None:
        """Saves a new user's message, if any, and a STREAMING answer; `title` fills an empty one.

        Raises:
            ResourceNotFound: The conversation was deleted meanwhile.
        """
        conversation_id = answer.conversation_id
        values = {"latest_message_id": answer.id, "update_time_us": answer.update_time_us}
        mine = and_(owned(C, owner), C.id == conversation_id)
        async with self._databases.transaction(owner) as session:
            keys = await self._keys.writing(session, owner.tenant)
            if not await change(session, update(CONVERSATIONS).where(mine).values(values)):
                raise ResourceNotFound(owner.conversation_name(conversation_id))
            if title:
                named = {"title": keys.seal(conversation_cell(owner, conversation_id, "title"), title)}
                await session.execute(update(CONVERSATIONS).where(mine, C.title == b"").values(named))
            for message in (question, answer):
                if message is not None:
                    await session.execute(insert(MESSAGES).values(message_columns(owner, message, keys)))

    async def withdraw_answer(self, owner: Owner, answer: Message) -> None:
        """Deletes a STREAMING answer that never started, if it was saved."""
        latest = and_(owned(C, owner), C.id == answer.conversation_id, C.latest_message_id == answer.id)
        streaming = and_(owned(M, owner), M.id == answer.id, M.state == MessageState.STREAMING.value)
        async with self._databases.transaction(owner) as session:
            await session.execute(delete(MESSAGES).where(streaming))
            await session.execute(update(CONVERSATIONS).where(latest).values(latest_message_id=answer.parent_id))

    async def reopen_answer(self, owner: Owner, answer: Message) -> bool:
        """Makes a PARTIAL answer STREAMING; says whether it was PARTIAL."""
        partial = and_(owned(M, owner), M.id == answer.id, M.state == MessageState.PARTIAL.value)
        values = {"state": MessageState.STREAMING.value, "finish_reason": None, "update_time_us": answer.update_time_us}
        async with self._databases.transaction(owner) as session:
            return await change(session, update(MESSAGES).where(partial).values(values)) > 0

    async def save_answer(self, owner: Owner, answer: Message) -> bool:
        """Saves what changes while an answer streams; says whether the message exists."""
        mine = and_(owned(M, owner), M.id == answer.id)
        conversation = and_(owned(C, owner), C.id == answer.conversation_id)
        async with self._databases.transaction(owner) as session:
            keys = await self._keys.writing(session, owner.tenant)
            columns = answer_columns(owner, answer, keys)
            is_there = await change(session, update(MESSAGES).where(mine).values(columns)) > 0
            if is_there and answer.state is not MessageState.STREAMING:
                newest = {"update_time_us": answer.update_time_us, "latest_message_id": answer.id}
                await session.execute(update(CONVERSATIONS).where(conversation).values(newest))
        return is_there

    async def checkpoint_answers(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        """Saves what has come of answers so far, of those that are STREAMING still."""
        for storage in {owner.storage for owner, _ in answers}:
            here = [(owner, answer) for owner, answer in answers if owner.storage is storage]
            async with self._databases.of(storage).transaction(PLATFORM) as session:
                await self._checkpoint(session, here)

    async def _checkpoint(self, session: AsyncSession, answers: Sequence[tuple[Owner, Message]]) -> None:
        for tenant in sorted({owner.tenant for owner, _ in answers}):
            keys = await self._keys.writing(session, tenant)
            for owner, answer in answers:
                if owner.tenant == tenant:
                    streaming = and_(owned(M, owner), M.id == answer.id, M.state == MessageState.STREAMING.value)
                    columns = checkpoint_columns(owner, answer, keys)
                    await session.execute(update(MESSAGES).where(streaming).values(columns))

    async def interrupt_streaming(self, database: Database, now_us: int) -> int:
        """Makes answers that a killed process left STREAMING PARTIAL, of all owners; gives how many."""
        values = {
            "state": MessageState.PARTIAL.value,
            "finish_reason": FinishReason.INTERRUPTED.value,
            "update_time_us": now_us,
        }
        async with database.transaction(PLATFORM) as session:
            left = update(MESSAGES).where(M.state == MessageState.STREAMING.value)
            return await change(session, left.values(values))

    async def ping(self, database: Database) -> None:
        """Raises StorageUnavailable if the database does not answer."""
        async with database.transaction(PLATFORM) as session:
            await session.execute(select(1))
