"""Writes that end an answer: tried while the caller waits, and after that until the store takes them.

Without the second part an answer that ended while the disk was full would stay STREAMING until the next start, and
nobody could go on from it.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from redoma_kit.errors import StorageUnavailable

RETRY_DELAYS_S = (0.2, 0.5, 1.0, 2.0)
OVERDUE_INTERVAL_S = 1.0
T = TypeVar("T")


class Endings:
    """Makes the last writes of answers. What is overdue is no more than what streamed when the store went away."""

    def __init__(self, log: structlog.stdlib.BoundLogger, interval_s: float = OVERDUE_INTERVAL_S) -> None:
        self._log = log
        self._interval_s = interval_s
        self._overdue: deque[Callable[[], Awaitable[object]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does `work`, again after each of RETRY_DELAYS_S while the store is not available, and later by itself.

        Raises:
            StorageUnavailable: It could not be done yet.
        """
        for delay_s in RETRY_DELAYS_S:
            try:
                return await work()
            except StorageUnavailable:
                await asyncio.sleep(delay_s)
        try:
            return await work()
        except StorageUnavailable:
            self._overdue.append(work)
            if self._task is None or self._task.done():
                # Its log lines are none of the call that happened to start it.
                self._task = asyncio.create_task(self._run(), name="overdue endings", context=contextvars.Context())
            raise

    async def stop(self) -> None:
        """Gives up what is overdue; the next start ends those answers."""
        if self._task is not None and not self._task.done():
            self._log.error("answers stay without their end", answers=len(self._overdue))
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._overdue:
            try:
                await self._overdue[0]()
            except StorageUnavailable:
                await asyncio.sleep(self._interval_s)
            except Exception:
                self._log.exception("an answer's end can't be saved")
                self._overdue.popleft()
            else:
                self._overdue.popleft()
