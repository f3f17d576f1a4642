"""Tells of calls whose process was killed before it could: each call that may change something is noted beforehand.

A note goes when the call's entry is written, in the same transaction. One that is left becomes an entry with the result
UNKNOWN: the change may have been made, and nobody was answered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from redoma_kit.periodic import Periodic
from redoma_tenant.audit.chain import Event
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.audit.wording import fit

UNKNOWN = "UNKNOWN"
# Longer than any such call may take.
LOST_AFTER = timedelta(seconds=120)
INTERVAL_S = 30.0
BATCH = 100


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that was begun. The event is what is to be told if it is lost."""

    id: str
    event: Event


class BegunStore(Protocol):
    """Where notes are kept. Every call may raise StorageUnavailable."""

    async def add_begun(self, begun: Begun, due: datetime) -> None:
        """Adds a note, which is lost if it is there at `due`."""

    async def take_due(self, now: datetime, again: datetime, limit: int) -> Sequence[Begun]:
        """Gives at most `limit` notes that are due, and makes them due `again`, so that one replica tells of each."""


class BegunCalls:
    """Notes calls, and tells of those that were lost. `start` it."""

    def __init__(
        self, store: BegunStore, trail: AuditTrail, now: Callable[[], datetime], log: structlog.stdlib.BoundLogger
    ) -> None:
        self._store = store
        self._trail = trail
        self._now = now
        self._log = log
        self._periodic = Periodic("lost calls", INTERVAL_S, self.tell, log)

    def start(self) -> None:
        """Begins to look for calls that were lost."""
        self._periodic.start()

    async def stop(self) -> None:
        """Stops."""
        await self._periodic.stop()

    async def note(self, note: str, event: Event) -> None:
        """Notes a call that begins, under an id of its own.

        Raises:
            StorageUnavailable: It can't be noted, so it must not be made.
        """
        await self._store.add_begun(Begun(note, fit(replace(event, result=UNKNOWN))), self._now() + LOST_AFTER)

    async def tell(self) -> None:
        """Appends an entry for each call that was lost.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now = self._now()
        for begun in await self._store.take_due(now, now + LOST_AFTER, BATCH):
            self._log.warning("an administrative call was lost", method=begun.event.action)
            self._trail.submit(begun.event, begun.id)
