"""Conversations in a SQL database. Every statement names tenant and principal, save the sweep at startup.

A statement that changes a row decides by itself whether it may (its WHERE clause holds the condition), so that no
reader of an older state overwrites a newer one.
"""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, and_, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.branch import BranchEntry
from redoma_chat.conversations import Conversation, Message, MessageState
from redoma_chat.inference import FinishReason, Role
from redoma_chat.names import Owner
from redoma_chat.rows import (
    answer_columns,
    checkpoint_columns,
    conversation_columns,
    conversation_of,
    folded,
    message_columns,
    message_of,
)
from redoma_chat.tables import CONVERSATIONS, MESSAGES
from redoma_kit.database import PLATFORM, Database, Scope
from redoma_kit.errors import ResourceNotFound

C = CONVERSATIONS.c
M = MESSAGES.c
UPDATABLE = {
    "title": ("title", "title_folded"),
    "system_prompt": ("system_prompt",),
    "model": ("model",),
    "sampling": ("sampling",),
}
CONTENTS_A_QUERY = 500
# Forms of answers can be large, and only going on with an answer needs them.
LISTED = tuple(column for column in MESSAGES.c if column is not M.response_format)


class SqlStore:
    """What keeps conversations, answers and branches. Every method may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_conversation(self, owner: Owner, conversation: Conversation, request_id: str) -> Conversation:
        """Saves a conversation, or gives the one that the same request id made before."""
        columns = {**conversation_columns(owner, conversation), "request_id": request_id or None}
        try:
            async with self._database.transaction(Scope.of(owner.tenant)) as session:
                await session.execute(insert(CONVERSATIONS).values(columns))
        except IntegrityError:
            async with self._database.transaction(Scope.of(owner.tenant)) as session:
                query = select(CONVERSATIONS).where(_owned(C, owner), C.request_id == request_id)
                return conversation_of(cast(Any, (await session.execute(query)).mappings().one()))
        return conversation

    async def get_conversation(self, owner: Owner, conversation_id: str) -> Conversation | None:
        """Gets a conversation."""
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            query = select(CONVERSATIONS).where(_owned(C, owner), C.id == conversation_id)
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else conversation_of(cast(Any, row))

    async def list_conversations(
        self, owner: Owner, before: tuple[int, str] | None, limit: int, words: tuple[str, ...]
    ) -> list[Conversation]:
        """Lists conversations that hold every word, the one changed last first, from behind (time, id) on."""
        query = select(CONVERSATIONS).where(_owned(C, owner), *(_holds(folded(word)) for word in words))
        if before is not None:
            changed_us, last_id = before
            query = query.where(
                or_(C.update_time_us < changed_us, and_(C.update_time_us == changed_us, C.id < last_id))
            )
        query = query.order_by(C.update_time_us.desc(), C.id.desc()).limit(limit)
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            return [conversation_of(cast(Any, row)) for row in (await session.execute(query)).mappings()]

    async def update_conversation(self, owner: Owner, changed: Conversation, fields: frozenset[str]) -> bool:
        """Saves the named fields and the time; says whether the conversation exists."""
        columns = conversation_columns(owner, changed)
        names = {column for field in fields for column in UPDATABLE[field]} | {"update_time_us"}
        values = {name: columns[name] for name in names}
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            return await _change(
                session, update(CONVERSATIONS).where(_owned(C, owner), C.id == changed.id).values(values)
            )

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> bool:
        """Deletes a conversation with its messages; says whether it existed."""
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            return await _change(session, delete(CONVERSATIONS).where(_owned(C, owner), C.id == conversation_id))

    async def get_message(self, owner: Owner, conversation_id: str, message_id: str) -> Message | None:
        """Gets a message."""
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            query = select(MESSAGES).where(_owned(M, owner), M.conversation_id == conversation_id, M.id == message_id)
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else message_of(cast(Any, row))

    async def list_messages(self, owner: Owner, conversation_id: str, after: str, limit: int) -> list[Message]:
        """Lists messages in the order of their ids, from behind `after` on."""
        query = (
            select(*LISTED)
            .where(_owned(M, owner), M.conversation_id == conversation_id, M.id > after)
            .order_by(M.id)
            .limit(limit)
        )
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            return [message_of(cast(Any, row)) for row in (await session.execute(query)).mappings()]

    async def branch(self, owner: Owner, conversation_id: str, tip: str) -> list[BranchEntry]:
        """Gives the messages from the root to `tip`, oldest first; empty where there is no such message."""
        mine = and_(_owned(M, owner), M.conversation_id == conversation_id)
        columns = (M.id, M.parent_id, M.role, func.length(M.content).label("characters"))
        path = select(*columns, literal(0).label("depth")).where(mine, M.id == tip).cte("path", recursive=True)
        path = path.union_all(
            select(*columns, path.c.depth + 1).join_from(MESSAGES, path, M.id == path.c.parent_id).where(mine)
        )
        query = select(path.c.id, path.c.role, path.c.characters).order_by(path.c.depth.desc())
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            rows = (await session.execute(query)).all()
        return [BranchEntry(row.id, Role(row.role), row.characters) for row in rows]

    async def contents(self, owner: Owner, message_ids: Sequence[str]) -> dict[str, str]:
        """Gives the texts of messages, by id."""
        found: dict[str, str] = {}
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            for first in range(0, len(message_ids), CONTENTS_A_QUERY):
                some = message_ids[first : first + CONTENTS_A_QUERY]
                rows = await session.execute(select(M.id, M.content).where(_owned(M, owner), M.id.in_(some)))
                found.update((row.id, row.content) for row in rows)
        return found

    async def begin_answer(self, owner: Owner, question: Message | None, answer: Message, title: str) -> None:
        """Saves a new user's message, if any, and a STREAMING answer; `title` fills an empty one.

        Raises:
            ResourceNotFound: The conversation was deleted meanwhile.
        """
        conversation_id = answer.conversation_id
        values = {"latest_message_id": answer.id, "update_time_us": answer.update_time_us}
        mine = and_(_owned(C, owner), C.id == conversation_id)
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            if not await _change(session, update(CONVERSATIONS).where(mine).values(values)):
                raise ResourceNotFound(owner.conversation_name(conversation_id))
            if title:
                named = {"title": title, "title_folded": folded(title)}
                await session.execute(update(CONVERSATIONS).where(mine, C.title == "").values(named))
            for message in (question, answer):
                if message is not None:
                    await session.execute(insert(MESSAGES).values(message_columns(owner, message)))

    async def withdraw_answer(self, owner: Owner, answer: Message) -> None:
        """Deletes a STREAMING answer that never started, if it was saved."""
        latest = and_(_owned(C, owner), C.id == answer.conversation_id, C.latest_message_id == answer.id)
        streaming = and_(_owned(M, owner), M.id == answer.id, M.state == MessageState.STREAMING.value)
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            await session.execute(delete(MESSAGES).where(streaming))
            await session.execute(update(CONVERSATIONS).where(latest).values(latest_message_id=answer.parent_id))

    async def reopen_answer(self, owner: Owner, answer: Message) -> bool:
        """Makes a PARTIAL answer STREAMING; says whether it was PARTIAL."""
        partial = and_(_owned(M, owner), M.id == answer.id, M.state == MessageState.PARTIAL.value)
        values = {"state": MessageState.STREAMING.value, "finish_reason": None, "update_time_us": answer.update_time_us}
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            return await _change(session, update(MESSAGES).where(partial).values(values))

    async def save_answer(self, owner: Owner, answer: Message) -> bool:
        """Saves what changes while an answer streams; says whether the message exists."""
        mine = and_(_owned(M, owner), M.id == answer.id)
        conversation = and_(_owned(C, owner), C.id == answer.conversation_id)
        async with self._database.transaction(Scope.of(owner.tenant)) as session:
            is_there = await _change(session, update(MESSAGES).where(mine).values(answer_columns(answer)))
            if is_there and answer.state is not MessageState.STREAMING:
                newest = {"update_time_us": answer.update_time_us, "latest_message_id": answer.id}
                await session.execute(update(CONVERSATIONS).where(conversation).values(newest))
        return is_there

    async def checkpoint_answers(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        """Saves what has come of answers so far, of those that are STREAMING still. Searches find it when they end."""
        async with self._database.transaction(PLATFORM) as session:
            for owner, answer in answers:
                streaming = and_(_owned(M, owner), M.id == answer.id, M.state == MessageState.STREAMING.value)
                await session.execute(update(MESSAGES).where(streaming).values(checkpoint_columns(answer)))

    async def interrupt_streaming(self, now_us: int) -> int:
        """Makes answers that a killed process left STREAMING PARTIAL, of all owners; gives how many."""
        values = {
            "state": MessageState.PARTIAL.value,
            "finish_reason": FinishReason.INTERRUPTED.value,
            "update_time_us": now_us,
        }
        async with self._database.transaction(PLATFORM) as session:
            streaming = select(M.id, M.content).where(M.state == MessageState.STREAMING.value)
            left = (await session.execute(streaming)).all()
            for row in left:
                found = {**values, "content_folded": folded(row.content)}
                await session.execute(update(MESSAGES).where(M.id == row.id).values(found))
        return len(left)

    async def ping(self) -> None:
        """Raises StorageUnavailable if the database does not answer."""
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(select(literal(1)))


async def _change(session: AsyncSession, statement: Any) -> bool:
    return cast("CursorResult[Any]", await session.execute(statement)).rowcount > 0


def _owned(columns: Any, owner: Owner) -> ColumnElement[bool]:
    return and_(columns.tenant == owner.tenant, columns.principal == owner.principal)


def _holds(word: str) -> ColumnElement[bool]:
    said = exists().where(
        M.conversation_id == C.id,
        M.tenant == C.tenant,
        M.principal == C.principal,
        M.content_folded.contains(word, autoescape=True),
    )
    return or_(C.title_folded.contains(word, autoescape=True), said)
