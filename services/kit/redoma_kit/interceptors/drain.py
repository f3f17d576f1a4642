"""Lets running calls finish and refuses new ones while the service shuts down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redoma_kit.errors import ShuttingDown
from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import PROBES, REFLECTION

NOT_WORK = frozenset({*PROBES, *REFLECTION})


class Drain:
    """Knows the running calls, health and reflection aside."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._ended_by_us: set[asyncio.Task[Any]] = set()
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = asyncio.Event()

    @property
    def running(self) -> int:
        """Calls that are being handled now."""
        return len(self._running)

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self._begun.is_set()

    async def begins_within(self, wait_s: float) -> bool:
        """Waits at most so long, in seconds, for the service to shut down, and tells whether it does."""
        try:
            async with asyncio.timeout(wait_s):
                await self._begun.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        if call.method in NOT_WORK:
            yield
            return
        if self.draining:
            raise ShuttingDown()
        if (task := asyncio.current_task()) is None:
            raise RuntimeError("a call is handled outside of a task")
        self._running.add(task)
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if task in self._ended_by_us and task.uncancel() == 0:
                raise ShuttingDown() from None
            raise
        finally:
            self._ended_by_us.discard(task)
            self._running.discard(task)
            if not self._running:
                self._idle.set()

    def hurry(self) -> None:
        """Ends the wait of `drain`."""
        self._hurry.set()

    async def drain(self, grace_s: float) -> int:
        """Refuses new calls, waits for running ones at most `grace_s` seconds, and returns how many are left."""
        self._begun.set()
        waits = [asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self.running

    async def end(self, grace_s: float) -> None:
        """Ends the running calls with ShuttingDown and waits for that at most `grace_s` seconds."""
        for task in self._running:
            self._ended_by_us.add(task)
            task.cancel()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            pass
