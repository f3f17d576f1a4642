"""Work that a service does by itself: now and then, and at once when there is something to do."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import structlog

from redoma_kit.errors import StorageUnavailable


class Periodic:
    """Does `work` at the start, every `interval_s` seconds, and when woken. What fails is logged and tried again.

    A round is never begun before the former one has ended; being woken meanwhile brings one more.
    """

    def __init__(
        self,
        name: str,
        interval_s: float,
        work: Callable[[], Awaitable[object]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._name = name
        self._interval_s = interval_s
        self._work = work
        self._log = log
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        # Its log lines are none of the call that happened to start it.
        self._task = asyncio.create_task(self._run(), name=self._name, context=contextvars.Context())

    def wake(self) -> None:
        """Says that there is work."""
        self._wake.set()

    async def stop(self) -> None:
        """Stops, in the middle of a round if need be; returns when nothing of it runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._work()
            except StorageUnavailable:
                self._log.warning("the database is away", work=self._name)
            except Exception:
                self._log.exception("background work failed", work=self._name)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
