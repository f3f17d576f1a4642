"""Carries erasures out: asks each place until it has acknowledged, over restarts too, and certifies the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

import structlog

from redoma_tenant.privacy.erasures import Erasure, ErasureState, Parts, Step, Subject

BATCH = 100


class NotAcknowledged(Exception):
    """A place can't be asked, or could not erase all; the message says why in neutral words.

    `done` is what those of its parts have erased that did.
    """

    def __init__(self, message: str, done: Parts = MappingProxyType({})) -> None:
        super().__init__(message)
        self.done = done


class ErasurePlace(Protocol):
    """Somewhere that content is held."""

    @property
    def name(self) -> str:
        """What people call the place."""

    async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
        """Erases the subject's content; gives how many things it was, by kind. Erasing again does no harm.

        `done` is what parts of the place have erased already; a place of one part has none.

        Raises:
            NotAcknowledged: Something may be left.
        """


class PendingStore(Protocol):
    """Where erasures are kept. Every call may raise StorageUnavailable."""

    async def pending_erasures(self, after: Erasure | None, limit: int) -> Sequence[Erasure]:
        """Gives erasures of all tenants that are not complete, the oldest first, those after `after` in that order."""

    async def save_erasure(self, erasure: Erasure) -> None:
        """Saves steps, state and certificate, unless the erasure is complete already."""


class Eraser:
    """Works on erasures. Several replicas may work on the same one: places take that."""

    def __init__(
        self,
        store: PendingStore,
        places: Sequence[ErasurePlace],
        certify: Callable[[Erasure], str],
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._places = {place.name: place for place in places}
        self._certify = certify
        self._now = now
        self._log = log

    async def work(self) -> None:
        """Goes once over what is pending.

        Raises:
            StorageUnavailable: The store does not answer.
        """
        last: Erasure | None = None
        while erasures := await self._store.pending_erasures(last, BATCH):
            for erasure in erasures:
                await self._work_on(erasure)
            last = erasures[-1]

    async def _work_on(self, erasure: Erasure) -> None:
        try:
            advanced = await self._advanced(erasure)
        except Exception:
            # A defect that one erasure meets does not keep the others waiting.
            self._log.exception("erasure can't go on", erasure=erasure.name)
            return
        if advanced != erasure:
            await self._store.save_erasure(advanced)

    async def _advanced(self, erasure: Erasure) -> Erasure:
        for step in erasure.steps:
            if step.acknowledge_time is None:
                erasure = erasure.with_step(await self._asked(step, erasure))
        if not erasure.acknowledged:
            return erasure
        complete = replace(erasure, state=ErasureState.COMPLETE, complete_time=self._now())
        self._log.info("erasure complete", erasure=erasure.name)
        return replace(complete, certificate=self._certify(complete))

    async def _asked(self, step: Step, erasure: Erasure) -> Step:
        # A step may name a part of a place, as `model/host:port` does.
        place = self._places.get(step.place) or self._places.get(step.place.partition("/")[0])
        if place is None:
            return replace(step, problem="The place is not configured any more; configure it, so that it can be asked.")
        try:
            erased = await place.erase(erasure.subject, step.done)
        except NotAcknowledged as error:
            self._log.warning("erasure not acknowledged", erasure=erasure.name, place=step.place, problem=str(error))
            return replace(step, problem=str(error), done=error.done)
        return replace(step, acknowledge_time=self._now(), erased=dict(erased), problem="", done={})
