"""Closes the unused tunnels of sites, again and again until there are none."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from redoma_provisioner.network.drivers.embedded.egress_calls import EgressAway

# Each round closes one tunnel of each worker. By the last one the egress has long heard that a site is admitted no
# more, the handshakes that were under way have ended, and so has what ran on the site's listeners.
ROUNDS_AT_S = (0.15, 0.4, 0.65, 0.9, 1.25, 1.5, 1.75, 2.5)
RETRY_S = 0.5
LONGEST_S = 60.0

Sleep = Callable[[float], Awaitable[None]]


class Flush(Protocol):
    """What closes tunnels."""

    async def flush(self, site: str) -> None:
        """Closes tunnels of a site that nothing uses; raises EgressAway."""
        ...


class TunnelCount(Protocol):
    """What knows how many tunnels the egress has."""

    async def by_site(self) -> Mapping[str, int] | None:
        """Gives the number of tunnels by site, those with none left out; None: nobody knows."""
        ...


class Flushing:
    """Flushes sites in the background."""

    def __init__(
        self,
        calls: Flush,
        tunnels: TunnelCount,
        log: structlog.stdlib.BoundLogger,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._calls = calls
        self._tunnels = tunnels
        self._log = log
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, site: str, admitted: bool) -> None:
        """Flushes a site; one that is not `admitted` until it has no tunnel, the others' come back."""
        if (former := self._tasks.pop(site, None)) is not None:
            former.cancel()
        task = asyncio.create_task(self._flush(site, admitted), name=f"flush of {site}")
        self._tasks[site] = task
        task.add_done_callback(lambda done: self._forget(site, done))

    def is_under_way(self, site: str) -> bool:
        """Tells whether a site is being flushed."""
        return site in self._tasks

    async def stop(self) -> None:
        """Ends, in the middle if need be."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _flush(self, site: str, admitted: bool) -> None:
        at_s = 0.0
        for round_at_s in ROUNDS_AT_S:
            await self._sleep(round_at_s - at_s)
            at_s = round_at_s
            await self._round(site)
        while not admitted and at_s < LONGEST_S and site in (await self._tunnels.by_site() or {}):
            await self._round(site)
            await self._sleep(RETRY_S)
            at_s += RETRY_S
        self._log.info("unused tunnels were closed", site=site)

    async def _round(self, site: str) -> None:
        for _ in range(round(LONGEST_S / RETRY_S)):
            try:
                await self._calls.flush(site)
                return
            except EgressAway:
                await self._sleep(RETRY_S)
        self._log.warning("tunnels can't be closed, as the egress does not answer", site=site)

    def _forget(self, site: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(site) is task:
            del self._tasks[site]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("tunnels could not be closed", site=site, exc_info=error)
