"""Closes the unused tunnels of sites, again and again until none comes back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from redoma_provisioner.network.drivers.embedded.egress_calls import EgressAway

# The egress has heard by then that a site is admitted no more; and by the last of them, a handshake that was under way
# has ended, and so has what ran on the site's listeners.
ROUNDS_AT_S = (0.15, 0.6, 1.25, 2.0)
RETRY_S = 0.5
LONGEST_S = 60.0

Sleep = Callable[[float], Awaitable[None]]


class Flush(Protocol):
    """What closes tunnels."""

    async def flush(self, site: str) -> int:
        """Closes tunnels of a site that nothing uses, and says how many; raises EgressAway."""
        ...


class Flushing:
    """Flushes sites in the background."""

    def __init__(self, calls: Flush, log: structlog.stdlib.BoundLogger, sleep: Sleep = asyncio.sleep) -> None:
        self._calls = calls
        self._log = log
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, site: str) -> None:
        """Flushes a site, from the beginning if it is being flushed."""
        if (former := self._tasks.pop(site, None)) is not None:
            former.cancel()
        task = asyncio.create_task(self._flush(site), name=f"flush of {site}")
        self._tasks[site] = task
        task.add_done_callback(lambda done: self._forget(site, done))

    async def stop(self) -> None:
        """Ends, in the middle if need be."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _flush(self, site: str) -> None:
        closed, at_s = 0, 0.0
        for round_at_s in ROUNDS_AT_S:
            await self._sleep(max(0.0, round_at_s - at_s))
            at_s = round_at_s
            closed += await self._round(site)
        # A site that keeps dialling while the egress was not told of the change yet.
        while at_s < LONGEST_S and (again := await self._round(site)):
            closed, at_s = closed + again, at_s + RETRY_S
            await self._sleep(RETRY_S)
        self._log.info("tunnels were closed", site=site, tunnels=closed)

    async def _round(self, site: str) -> int:
        for _ in range(round(LONGEST_S / RETRY_S)):
            try:
                return await self._calls.flush(site)
            except EgressAway:
                await self._sleep(RETRY_S)
        self._log.warning("tunnels could not be closed, as the egress does not answer", site=site)
        return 0

    def _forget(self, site: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(site) is task:
            del self._tasks[site]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("tunnels could not be closed", site=site, exc_info=error)
