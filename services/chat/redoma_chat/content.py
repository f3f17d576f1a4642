"""What conversations hold, as a whole: given out to those whose it is, and erased for good."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from redoma_chat.content_storage import ContentStorage
from redoma_chat.conversations import Conversation, Message
from redoma_chat.errors import ContentErased
from redoma_chat.metering.meter import Revocation
from redoma_chat.names import Owner

CONVERSATIONS_A_PAGE = 50
# A message may take a mebibyte.
MESSAGES_A_PAGE = 20
Item = tuple[Owner, Conversation | Message]


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased."""

    conversations: int = 0
    messages: int = 0
    content_keys: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        """Adds what was erased besides."""
        return Erased(
            self.conversations + other.conversations,
            self.messages + other.messages,
            self.content_keys + other.content_keys,
        )


class ContentStore(Protocol):
    """Where content is kept. An empty principal is all of the tenant. Every method may raise StorageUnavailable."""

    def storages(self) -> Sequence[ContentStorage]:
        """Gives the places where there may be content."""
        ...

    async def held_conversations(
        self, storage: ContentStorage, tenant: str, principal: str, after: str, limit: int
    ) -> list[tuple[Owner, Conversation]]:
        """Gives conversations with whose they are, in the order of their ids, from behind `after` on."""
        ...

    async def list_messages(self, owner: Owner, conversation_id: str, after: str, limit: int) -> list[Message]:
        """Lists messages in the order of their ids, from behind `after` on."""
        ...

    async def erase_conversations(
        self, storage: ContentStorage, tenant: str, principal: str, before_us: int | None
    ) -> Erased:
        """Deletes a batch of conversations in which nothing was said since a time; zeros say that none is left."""
        ...

    async def erase_messages(self, storage: ContentStorage, tenant: str, principal: str, before_us: int) -> Erased:
        """Deletes a batch of messages said before a time, and what their conversations were told then."""
        ...

    async def destroy_keys(self, storage: ContentStorage, tenant: str, before_us: int | None) -> Erased:
        """Destroys the versions of a tenant's key made before a time, with all content there is without a time."""
        ...


class RunningAnswers(Protocol):
    """The calls that generate now."""

    def revoke(self, revocation: Revocation) -> int:
        """Ends the calls of whom a revocation names; gives how many."""
        ...


class Content:
    """Gives content out and erases it, wherever it lies."""

    def __init__(
        self,
        store: ContentStore,
        running: RunningAnswers,
        scrub: Callable[[], Awaitable[None]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Puts it together.

        Args:
            store: Where content is kept.
            running: What must end before content is erased.
            scrub: Takes what was deleted out of what databases keep beside their tables.
            log: For counts.
        """
        self._store = store
        self._running = running
        self._scrub = scrub
        self._log = log

    async def export(self, tenant: str, principal: str) -> AsyncGenerator[Item, None]:
        """Gives conversations with whose they are, each followed by its messages, the oldest first.

        Raises:
            ContentUnreadable: Something does not decrypt.
        """
        for storage in self._store.storages():
            after, more = "", True
            while more:
                page = await self._store.held_conversations(storage, tenant, principal, after, CONVERSATIONS_A_PAGE)
                for owner, conversation in page:
                    yield owner, conversation
                    async for message in self._messages(owner, conversation.id):
                        yield owner, message
                    after = conversation.id
                more = len(page) == CONVERSATIONS_A_PAGE

    async def _messages(self, owner: Owner, conversation_id: str) -> AsyncGenerator[Message, None]:
        after, more = "", True
        while more:
            page = await self._store.list_messages(owner, conversation_id, after, MESSAGES_A_PAGE)
            for message in page:
                yield message
                after = message.id
            more = len(page) == MESSAGES_A_PAGE

    async def erase(self, tenant: str, principal: str, before_us: int | None) -> Erased:
        """Erases what was said, before a time if there is one, and without a principal the content key it is under."""
        ended = self._running.revoke(Revocation(tenant, principal, ContentErased))
        erased = Erased()
        for storage in self._store.storages():
            erased += await self._erase_in(storage, tenant, principal, before_us)
        await self._scrub()
        self._log.info(
            "content erased",
            tenant=tenant,
            principal=principal,
            conversations=erased.conversations,
            messages=erased.messages,
            content_keys=erased.content_keys,
            calls_ended=ended,
        )
        return erased

    async def _erase_in(self, storage: ContentStorage, tenant: str, principal: str, before_us: int | None) -> Erased:
        erased = Erased()
        while some := await self._some(self._store.erase_conversations(storage, tenant, principal, before_us)):
            erased += some
        if before_us is not None:
            while some := await self._some(self._store.erase_messages(storage, tenant, principal, before_us)):
                erased += some
        if not principal:
            erased += await self._store.destroy_keys(storage, tenant, before_us)
        return erased

    @staticmethod
    async def _some(batch: Awaitable[Erased]) -> Erased | None:
        erased = await batch
        return None if erased == Erased() else erased
