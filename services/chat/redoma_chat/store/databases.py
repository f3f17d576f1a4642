"""The databases that conversations lie in: the public site's and, where there is one, the private site's.

The private one is at the other end of a link that may be down when the service starts. Nobody whose conversations lie
in the public one is to wait for it.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.content_storage import ContentStorage
from redoma_chat.names import Owner
from redoma_kit.database import Database, SchemaNotReady, Scope
from redoma_kit.errors import StorageUnavailable

PLACES = (ContentStorage.PUBLIC, ContentStorage.PRIVATE)


class Databases:
    """Gives each call its database. The private one is usable from when `open_private` succeeded."""

    def __init__(self, public: Database, private: Database | None, log: structlog.stdlib.BoundLogger) -> None:
        self._public = public
        self._private = private
        self._private_is_open = False
        self._log = log

    @property
    def has_private(self) -> bool:
        """Whether there is a private one, open or not."""
        return self._private is not None

    def of(self, storage: ContentStorage) -> Database:
        """Gives a database.

        Raises:
            StorageUnavailable: It is the private one, and not open.
        """
        if storage is ContentStorage.PUBLIC:
            return self._public
        if self._private is None or not self._private_is_open:
            raise StorageUnavailable()
        return self._private

    def usable(self) -> Sequence[ContentStorage]:
        """Gives the places whose databases are open."""
        return PLACES if self._private_is_open else PLACES[:1]

    def all(self) -> Sequence[ContentStorage]:
        """Gives the places that have a database.

        Raises:
            StorageUnavailable: One of them is not open.
        """
        if self._private is not None and not self._private_is_open:
            raise StorageUnavailable()
        return self.usable()

    def transaction(self, owner: Owner) -> AbstractAsyncContextManager[AsyncSession]:
        """Opens a transaction of the owner's tenant where its conversations lie; see Database.transaction.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        return self.of(owner.storage).transaction(Scope.of(owner.tenant))

    async def open_private(self, migrations: Path, opened: Callable[[ContentStorage], Awaitable[None]]) -> None:
        """Brings the private database up to date, if there is one that is not open, and tells `opened`."""
        if self._private is None or self._private_is_open:
            return
        try:
            await self._private.upgrade(migrations)
            self._private_is_open = True
            await opened(ContentStorage.PRIVATE)
        except (SchemaNotReady, StorageUnavailable) as error:
            self._private_is_open = False
            self._log.warning("private database unavailable", cause=str(error))

    async def scrub(self, rewrite: bool = False) -> None:
        """Takes what was deleted out of what the open databases keep beside their tables; see Database.scrub."""
        for place in self.usable():
            await self.of(place).scrub(rewrite)

    async def close(self) -> None:
        """Closes all."""
        await self._public.close()
        if self._private is not None:
            await self._private.close()
