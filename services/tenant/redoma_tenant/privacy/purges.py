"""Erases what is held of deleted tenants when their time has come."""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from redoma_tenant.privacy.erasures import Erasure, Step, Subject

BATCH = 100
PURPOSE = "The tenant was deleted."


class PurgeStore(Protocol):
    """Where deleted tenants are kept. Every call may raise StorageUnavailable."""

    async def due_tenants(self, now: datetime, limit: int) -> Sequence[str]:
        """Gives ids of deleted tenants whose time to be purged has come."""

    async def begin_purge(self, erasure: Erasure, now: datetime) -> bool:
        """Adds the erasure and takes the tenant's users and keys away; says whether nobody else has begun."""


class Purges:
    """Begins the erasure of each tenant that is due; the eraser does the rest."""

    def __init__(
        self,
        store: PurgeStore,
        places: Sequence[str],
        wake_eraser: Callable[[], None],
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Takes the names of the `places` that content is erased from."""
        self._store = store
        self._places = places
        self._wake_eraser = wake_eraser
        self._now = now
        self._log = log

    async def work(self) -> None:
        """Begins what is due.

        Raises:
            StorageUnavailable: The store does not answer.
        """
        now = self._now()
        for tenant in await self._store.due_tenants(now, BATCH):
            steps = tuple(Step(place) for place in self._places)
            if await self._store.begin_purge(Erasure(uuid.uuid4().hex, Subject(tenant), PURPOSE, now, steps), now):
                self._log.info("purging a deleted tenant", tenant=tenant)
                self._wake_eraser()
