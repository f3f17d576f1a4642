"""Ends running calls whose key was revoked or whose tenant was disabled, as soon as the tenant service says so."""

import asyncio
import contextvars
from contextlib import aclosing

import structlog

from redoma_chat.errors import QuotaUnavailable
from redoma_chat.metering.meter import Meter
from redoma_chat.metering.running_calls import RunningCalls

RECONNECT_S = 0.25
# The meter says something each second; a silent one is asked anew.
SILENCE_S = 3.5


class Revocations:
    """Follows what is revoked. After a break it goes on from what it saw last, so that nothing is missed."""

    def __init__(self, meter: Meter, calls: RunningCalls, log: structlog.stdlib.BoundLogger) -> None:
        self._meter = meter
        self._calls = calls
        self._log = log
        self._position = 0
        self._follows = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follows from now on."""
        self._task = asyncio.create_task(self._run(), name="revocations", context=contextvars.Context())

    async def stop(self) -> None:
        """Follows no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (QuotaUnavailable, TimeoutError):
                if self._follows:
                    self._log.warning("revocations can't be followed")
            except Exception:
                self._log.exception("revocations can't be followed")
            self._follows = False
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with aclosing(self._meter.revocations(self._position)) as events, asyncio.timeout(SILENCE_S) as silence:
            async for seen in events:
                silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                self._follows = True
                self._position = max(self._position, seen.position)
                if seen.revocation is not None:
                    ended = self._calls.revoke(seen.revocation)
                    self._log.info("revoked", tenant=seen.revocation.tenant, calls_ended=ended)
