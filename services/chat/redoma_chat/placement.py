"""Which database a call's conversation lies in, by what its tenant wants and where the conversation was begun.

A conversation stays where it was begun. Under PRIVATE those of the public database can still be read and deleted, and
new text only goes into the private one. Under PUBLIC nobody waits for the private site, so what lies there is not shown
until the tenant is PRIVATE again. Under NONE both can be read and deleted, and nothing is written.
"""

from dataclasses import replace
from typing import Protocol

import structlog

from redoma_chat.content_storage import ContentStorage
from redoma_chat.errors import ContentStorageOff
from redoma_chat.names import Owner
from redoma_kit.errors import StorageUnavailable

OFF = "Conversations of this tenant are kept nowhere; use calls that keep nothing, such as /v1/chat/completions."
ELSEWHERE = (
    "This conversation was begun when the tenant kept its texts elsewhere. It can be read and deleted; begin another."
)


class Policies(Protocol):
    """What tenants want."""

    async def storage(self, tenant: str) -> ContentStorage:
        """Gives where the caller's tenant wants its texts to be kept.

        Raises:
            ChecksUnavailable: The tenant service can't be asked.
        """
        ...


class Whereabouts(Protocol):
    """Where conversations lie."""

    async def has_conversation(self, owner: Owner, conversation_id: str) -> bool:
        """Says whether a conversation lies where the owner says."""
        ...


class Placement:
    """Gives an owner with the place its call is about."""

    def __init__(
        self, policies: Policies, store: Whereabouts, has_private: bool, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._policies = policies
        self._store = store
        self._has_private = has_private
        self._log = log

    async def to_create(self, owner: Owner) -> Owner:
        """Gives where a conversation is begun.

        Raises:
            ContentStorageOff: Nowhere.
            StorageUnavailable: In the private database, and there is none.
        """
        storage = await self._policies.storage(owner.tenant)
        if storage is ContentStorage.NONE:
            raise ContentStorageOff(OFF)
        if storage is ContentStorage.PRIVATE and not self._has_private:
            self._log.error("private_database_url is not set, and a tenant wants it", tenant=owner.tenant)
            raise StorageUnavailable()
        return replace(owner, storage=storage)

    async def to_write(self, owner: Owner, conversation_id: str) -> Owner:
        """Gives where text is added to a conversation.

        Raises:
            ContentStorageOff: Nowhere, or the conversation was begun elsewhere.
            StorageUnavailable: In the private database, and there is none.
        """
        place = await self.to_create(owner)
        if place.storage is ContentStorage.PUBLIC or await self._store.has_conversation(place, conversation_id):
            return place
        if await self._store.has_conversation(_in(owner, ContentStorage.PUBLIC), conversation_id):
            raise ContentStorageOff(ELSEWHERE)
        return place

    async def to_read(self, owner: Owner, conversation_id: str) -> Owner:
        """Gives where a conversation is read, or deleted."""
        first, *others = await self.to_list(owner)
        for place in others:
            if not await self._store.has_conversation(first, conversation_id):
                return place
        return first

    async def to_list(self, owner: Owner) -> tuple[Owner, ...]:
        """Gives everywhere where the owner's conversations are read."""
        public, private = _in(owner, ContentStorage.PUBLIC), _in(owner, ContentStorage.PRIVATE)
        if not self._has_private:
            return (public,)
        storage = await self._policies.storage(owner.tenant)
        if storage is ContentStorage.PUBLIC:
            return (public,)
        return (private, public) if storage is ContentStorage.PRIVATE else (public, private)


def _in(owner: Owner, storage: ContentStorage) -> Owner:
    return replace(owner, storage=storage)
