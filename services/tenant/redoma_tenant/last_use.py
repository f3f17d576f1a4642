"""Keeps when each key was used last, to the minute, without making a call wait for a write."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_tenant.caller import UsedKey

FLUSH_INTERVAL_S = 5.0


class LastUseStore(Protocol):
    """Where last uses are kept. May raise StorageUnavailable."""

    async def write_last_uses(self, last_uses: Mapping[str, datetime]) -> None:
        """Sets the last use of keys by id, unless a later one is kept."""


class LastUses:
    """Gathers uses and writes them together, each key at most once a minute.

    Uses that are not yet written are lost if the process is killed; a stop in order flushes them.
    """

    __slots__ = ("_log", "_now", "_pending", "_periodic", "_store", "_written")

    def __init__(self, store: LastUseStore, now: Callable[[], datetime], log: structlog.stdlib.BoundLogger) -> None:
        self._store = store
        self._now = now
        self._log = log
        self._pending: dict[str, datetime] = {}
        self._written: dict[str, datetime] = {}
        self._periodic = Periodic("last uses", FLUSH_INTERVAL_S, self.flush, log)

    def note(self, api_key: UsedKey) -> None:
        """Notes that a key is used now."""
        minute = self._now().replace(second=0, microsecond=0)
        if api_key.last_use_time == minute or self._written.get(api_key.id) == minute:
            return
        self._pending[api_key.id] = minute

    def start(self) -> None:
        """Begins to write in the background."""
        self._periodic.start()

    async def stop(self) -> None:
        """Stops, and writes what is left."""
        await self._periodic.stop()
        await self.flush()

    async def flush(self) -> None:
        """Writes what is pending. What can't be written stays pending."""
        batch = dict(self._pending)
        if not batch:
            return
        try:
            await self._store.write_last_uses(batch)
        except StorageUnavailable:
            self._log.warning("last uses not written", keys=len(batch))
            return
        newest = max(batch.values())
        self._written = {key: at for key, at in (self._written | batch).items() if at >= newest}
        self._pending = {key: at for key, at in self._pending.items() if batch.get(key) != at}
