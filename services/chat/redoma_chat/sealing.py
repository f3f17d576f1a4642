"""Seals what a release that did not encrypt wrote, and wraps content keys anew when their wrapping key was replaced.

It goes on in batches while the service serves, and after a restart from where it was: what is not sealed yet is read as
it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from redoma_chat.content_storage import ContentStorage

# Between batches, so that calls get their turn.
PAUSE_S = 0.02
WRAPPED = "content keys are wrapped by the first key"
ALL_WRAPPED = "content keys are wrapped by the first key; no other is needed"


class SealingStore(Protocol):
    """Where texts are kept. Every method may raise StorageUnavailable."""

    def usable_storages(self) -> Sequence[ContentStorage]:
        """Gives the places that answer."""
        ...

    async def seal_batch(self, storage: ContentStorage) -> int:
        """Seals a batch of all tenants' plain rows; gives how many."""
        ...

    async def wrap_keys(self, storage: ContentStorage) -> tuple[int, int]:
        """Wraps content keys with the key that wraps now; gives how many it did, and how many it could not."""
        ...


class Sealing:
    """Brings everything under the keys it belongs under."""

    def __init__(
        self, store: SealingStore, rewrite: Callable[[], Awaitable[None]], log: structlog.stdlib.BoundLogger
    ) -> None:
        """Puts it together.

        Args:
            store: Where texts are kept.
            rewrite: Takes what was plain out of all that databases keep of it.
            log: For counts.
        """
        self._store = store
        self._rewrite = rewrite
        self._log = log

    async def run(self) -> None:
        """Does all there is to do.

        Raises:
            StorageUnavailable: A database or the key provider does not answer; the next run goes on.
        """
        for storage in self._store.usable_storages():
            await self._wrap(storage)
            sealed = 0
            while done := await self._store.seal_batch(storage):
                sealed += done
                await asyncio.sleep(PAUSE_S)
            if sealed:
                await self._rewrite()
                self._log.info("rows of an earlier release are encrypted", storage=storage.value, rows=sealed)

    async def _wrap(self, storage: ContentStorage) -> None:
        done, left = await self._store.wrap_keys(storage)
        if done:
            self._log.info(WRAPPED if left else ALL_WRAPPED, storage=storage.value, keys=done)
        if left:
            self._log.error(
                "content keys can't be unwrapped; put the key that wrapped them back into the key provider",
                storage=storage.value,
                keys=left,
            )
