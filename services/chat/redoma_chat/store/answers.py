"""Answers in SQL, from their beginning to their end."""

from collections.abc import Sequence

from sqlalchemy import and_, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.checkpoints import LEASE_US
from redoma_chat.content_storage import ContentStorage
from redoma_chat.conversations import Message, MessageState
from redoma_chat.encryption import PLAIN_VERSION
from redoma_chat.inference import FinishReason
from redoma_chat.metering.meter import Settlement
from redoma_chat.names import Owner
from redoma_chat.rows import answer_columns, checkpoint_columns, conversation_cell, message_columns
from redoma_chat.store.base import StorePart, change, lowered, owned
from redoma_chat.store.outbox import keep_settlement
from redoma_chat.tables import CONVERSATIONS, MESSAGES
from redoma_kit.database import PLATFORM
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
                sealed = keys.seal(conversation_cell(owner, conversation_id, "title"), title)
                named = {"title": sealed, **lowered(CONVERSATIONS, keys.version)}
                await session.execute(update(CONVERSATIONS).where(mine, C.title == b"").values(named))
            for message in (question, answer):
                if message is not None:
                    columns = message_columns(owner, message, keys)
                    if message is answer:
                        columns["lease_us"] = answer.update_time_us + LEASE_US
                    await session.execute(insert(MESSAGES).values(columns))

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
        values = {
            "state": MessageState.STREAMING.value,
            "finish_reason": None,
            "update_time_us": answer.update_time_us,
            "lease_us": answer.update_time_us + LEASE_US,
        }
        async with self._databases.transaction(owner) as session:
            await self._keys.writing(session, owner.tenant)
            return await change(session, update(MESSAGES).where(partial).values(values)) > 0

    async def save_answer(self, owner: Owner, answer: Message, settlement: Settlement | None = None) -> bool:
        """Saves what changes while an answer streams; says whether the message exists.

        A settlement is put into the outbox in the same transaction, also where the message does not exist any more.
        """
        mine = and_(owned(M, owner), M.id == answer.id)
        conversation = and_(owned(C, owner), C.id == answer.conversation_id, exists().where(mine))
        async with self._databases.transaction(owner) as session:
            if settlement is not None:
                await keep_settlement(session, settlement, answer.update_time_us)
            keys = await self._keys.held(session, owner.tenant)
            if keys.version == PLAIN_VERSION:
                return False
            if answer.state is not MessageState.STREAMING:
                # Before the message, as those do who delete a conversation: else they could wait for one another.
                newest = {"update_time_us": answer.update_time_us, "latest_message_id": answer.id}
                await session.execute(update(CONVERSATIONS).where(conversation).values(newest))
            columns = answer_columns(owner, answer, keys) | lowered(MESSAGES, keys.version)
            return await change(session, update(MESSAGES).where(mine).values(columns)) > 0

    async def checkpoint_answers(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        """Saves what has come of answers so far, of those that are STREAMING still."""
        for storage in {owner.storage for owner, _ in answers}:
            here = [(owner, answer) for owner, answer in answers if owner.storage is storage]
            async with self._databases.of(storage).transaction(PLATFORM) as session:
                await self._checkpoint(session, here)

    async def _checkpoint(self, session: AsyncSession, answers: Sequence[tuple[Owner, Message]]) -> None:
        for tenant in sorted({owner.tenant for owner, _ in answers}):
            keys = await self._keys.held(session, tenant)
            for owner, answer in answers:
                if owner.tenant == tenant and keys.version != PLAIN_VERSION:
                    streaming = and_(owned(M, owner), M.id == answer.id, M.state == MessageState.STREAMING.value)
                    columns = checkpoint_columns(owner, answer, keys) | lowered(MESSAGES, keys.version)
                    await session.execute(update(MESSAGES).where(streaming).values(columns))

    async def renew_answers(self, answers: Sequence[tuple[Owner, str]], until_us: int) -> None:
        """Says of STREAMING answers, by their ids, until when they are this process's."""
        for storage in {owner.storage for owner, _ in answers}:
            ids = [message_id for owner, message_id in answers if owner.storage is storage]
            streaming = and_(M.id.in_(ids), M.state == MessageState.STREAMING.value)
            async with self._databases.of(storage).transaction(PLATFORM) as session:
                await session.execute(update(MESSAGES).where(streaming).values(lease_us=until_us))

    async def interrupt_streaming(self, storage: ContentStorage, now_us: int) -> int:
        """Makes answers that a dead process left STREAMING PARTIAL, of all owners; gives how many."""
        values = {
            "state": MessageState.PARTIAL.value,
            "finish_reason": FinishReason.INTERRUPTED.value,
            "update_time_us": now_us,
        }
        left = (M.state == MessageState.STREAMING.value, M.lease_us < now_us)
        async with self._databases.of(storage).transaction(PLATFORM) as session:
            # Mostly there are none, and a reader is in nobody's way.
            if (await session.execute(select(M.id).where(*left).limit(1))).first() is None:
                return 0
            return await change(session, update(MESSAGES).where(*left).values(values))

    async def ping(self) -> None:
        """Raises StorageUnavailable if the public site's database does not answer."""
        async with self._databases.of(ContentStorage.PUBLIC).transaction(PLATFORM) as session:
            await session.execute(select(1))
