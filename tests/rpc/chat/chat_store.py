"""The store of conversations on a database of its own, with a clock that stands until it is moved."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import structlog

from redoma_chat.content_keys import ContentKeys
from redoma_chat.conversations import Conversation, Message, MessageState
from redoma_chat.ids import IdSource
from redoma_chat.inference import Role
from redoma_chat.key_provider import KeyProvider, LocalKeys
from redoma_chat.names import Owner
from redoma_chat.server import MIGRATIONS, SCHEMA
from redoma_chat.store.content_keys import SqlContentKeys
from redoma_chat.store.databases import Databases
from redoma_chat.store.store import SqlStore
from redoma_kit.database import Database

LOG = structlog.stdlib.get_logger()
ACME = Owner("acme", "tenants/acme/apiKeys/one")
ACME_TWO = Owner("acme", "tenants/acme/users/two")
GLOBEX = Owner("globex", "tenants/globex/apiKeys/one")
START_US = 1_800_000_000_000_000


@dataclass
class Clock:
    """Microseconds since the epoch."""

    now_us: int = START_US

    def __call__(self) -> int:
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        """Lets time pass."""
        self.now_us += int(seconds * 1_000_000)


@dataclass
class Kept:
    """A store, its database, and ways to fill it."""

    database: Database
    store: SqlStore
    databases: Databases
    clock: Clock
    ids: IdSource = field(init=False)

    def __post_init__(self) -> None:
        self.ids = IdSource(lambda: self.clock() / 1_000_000)

    async def conversation(self, owner: Owner, title: str = "title", system_prompt: str = "system") -> Conversation:
        """Saves an empty conversation."""
        now_us = self.clock()
        made = Conversation(self.ids.new(), title, system_prompt, create_time_us=now_us, update_time_us=now_us)
        return await self.store.create_conversation(owner, made, "")

    async def said(self, owner: Owner, conversation: Conversation, text: str) -> Message:
        """Saves a question with a whole answer to it, and gives the answer."""
        answer = await self.streaming(owner, conversation, text)
        await self.store.save_answer(owner, self.whole(answer, f"to {text}"))
        return answer

    async def streaming(self, owner: Owner, conversation: Conversation, text: str) -> Message:
        """Saves a question with an answer that streams, and gives the answer."""
        now_us = self.clock()
        question = Message(self.ids.new(), conversation.id, "", Role.USER, text, MessageState.COMPLETE, now_us, now_us)
        answer = Message(
            self.ids.new(), conversation.id, question.id, Role.ASSISTANT, "", MessageState.STREAMING, now_us, now_us
        )
        await self.store.begin_answer(owner, question, answer, "")
        return answer

    def whole(self, answer: Message, text: str) -> Message:
        """Gives the answer as it is at its end."""
        return replace(answer, content=text, state=MessageState.COMPLETE, update_time_us=self.clock())

    async def titles(self, owner: Owner) -> list[str]:
        """Gives the titles of the owner's conversations, in their order."""
        return sorted(each.title for each in await self.store.page_of_conversations(owner, None, 1_000))


def store_on(databases: Databases, clock: Clock, provider: KeyProvider) -> SqlStore:
    """Gives a store as another process would have it."""
    return SqlStore(databases, SqlContentKeys(ContentKeys(provider, lambda: 0.0, LOG), clock))


@asynccontextmanager
async def kept_on(url: str, provider: KeyProvider | None = None) -> AsyncIterator[Kept]:
    """Opens a store on a database, which it brings up to date."""
    database = Database(url, LOG, SCHEMA)
    await database.upgrade(MIGRATIONS)
    databases = Databases(database, None, LOG)
    clock = Clock()
    try:
        yield Kept(database, store_on(databases, clock, provider or LocalKeys((os.urandom(32),))), databases, clock)
    finally:
        await databases.close()
