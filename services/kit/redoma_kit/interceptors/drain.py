"""Lets running calls finish and refuses new ones while the service shuts down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redoma_kit.errors import ShuttingDown
from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import HEALTH_CHECK, HEALTH_WATCH, REFLECTION

NOT_WORK = frozenset({HEALTH_CHECK, HEALTH_WATCH, *REFLECTION})


class Drain:
    """Counts running calls, health and reflection aside."""

    def __init__(self) -> None:
        self._running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Calls that are being handled now."""
        return self._running

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self._draining

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        if call.method in NOT_WORK:
            yield
            return
        if self._draining:
            raise ShuttingDown()
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def drain(self, grace_s: float) -> int:
        """Refuses new calls, waits for running ones at most `grace_s` seconds, and returns how many are left."""
        self._draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._running
