"""What ended calls used, on its way to the meter: sent together, and kept in the outbox until the meter has it.

A conversation's settlement is in the outbox since its answer was saved, in the same transaction. Another's is put there
when the meter does not take it at once. Settling twice counts once, so what is sent by two processes does no harm.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from redoma_chat.errors import QuotaUnavailable
from redoma_chat.metering.meter import Meter, Settlement
from redoma_kit.errors import StorageUnavailable

MOST_AT_ONCE = 500
# Between two looks into the outbox, and between two attempts while the meter is away.
INTERVAL_S = 2.0
# How long what is left may take when the service stops.
LAST_WAIT_S = 2.0


class Outbox(Protocol):
    """Where settlements wait that the meter has not taken. Every method may raise StorageUnavailable."""

    async def keep(self, settlements: Sequence[Settlement]) -> None:
        """Keeps settlements; those that are there already stay as they are."""
        ...

    async def claim(self, limit: int) -> list[Settlement]:
        """Gives settlements that nobody sends, the oldest first, and keeps them from others for a while."""
        ...

    async def forget(self, settlements: Sequence[Settlement]) -> None:
        """Deletes settlements that the meter has."""
        ...


class Settlements:
    """Sends settlements."""

    def __init__(
        self,
        meter: Meter,
        outbox: Outbox,
        log: structlog.stdlib.BoundLogger,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Makes a sender.

        Args:
            meter: Where they go.
            outbox: Where they wait.
            log: For what could not be done.
            interval_s: Seconds between two looks into the outbox.
        """
        self._meter = meter
        self._outbox = outbox
        self._log = log
        self._interval_s = interval_s
        self._new: deque[Settlement] = deque()
        self._woken = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sends from now on, what former processes left first."""
        self._woken.set()
        self._task = asyncio.create_task(self._run(), name="settlements", context=contextvars.Context())

    def send(self, settlement: Settlement) -> None:
        """Sends a settlement that is not in the outbox."""
        self._new.append(settlement)
        self._woken.set()

    def wake(self) -> None:
        """Sends what was just put into the outbox."""
        self._woken.set()

    async def stop(self) -> None:
        """Sends what is left, or keeps it."""
        self._stopping = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=LAST_WAIT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._keep_new()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._send_new()
                await self._send_kept()
            except (QuotaUnavailable, StorageUnavailable):
                await self._keep_new()
            except Exception:
                self._log.exception("settlements could not be sent")
            if self._stopping:
                return
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _send_new(self) -> None:
        while self._new:
            some = list(self._new)[:MOST_AT_ONCE]
            await self._settle(some)
            for _ in some:
                self._new.popleft()

    async def _send_kept(self) -> None:
        while some := await self._outbox.claim(MOST_AT_ONCE):
            await self._settle(some)
            await self._outbox.forget(some)
            if len(some) < MOST_AT_ONCE:
                return

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        held = await self._meter.settle(settlements)
        unknown = held.count(False)
        if unknown:
            self._log.warning("nothing was held for calls that ended", calls=unknown)

    async def _keep_new(self) -> None:
        """Puts what the meter did not take where it outlives this process."""
        some = list(self._new)
        if not some:
            return
        try:
            await self._outbox.keep(some)
        except StorageUnavailable:
            self._log.warning("settlements wait in memory", settlements=len(some))
            return
        for _ in some:
            self._new.popleft()
