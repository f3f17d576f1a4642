"""Keeps a call open to the provisioner of each private site: who answers is linked, whatever a driver says.

All sites are called side by side. One that does not answer is called again within RETRY_S, or later when so many are
away that calling them all each second would be a flood.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Protocol

import structlog

from redoma_kit.errors import InvalidField, StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_provisioner.errors import SiteUnreachable
from redoma_provisioner.network.connector import Connector, connectors_told
from redoma_provisioner.network.site import Sighting
from redoma_provisioner.network.standings import Report, Standings

RETRY_S = 1.0
MOST_TRIES_PER_S = 100.0
# Sites tell of themselves every five seconds. One that is silent for longer is taken for gone.
SILENCE_S = 12.0
# One that says something new without end is heard no more often; what it exposes, the egress has to be told.
LEAST_PAUSE_S, LEAST_PAUSE_EXPOSED_S = 0.2, 1.0
# How long the first answer may take, and how many sites are waited for at once.
FIRST_ANSWER_S = 5.0
MOST_FIRST_CALLS = 64
SIGHTINGS_INTERVAL_S = 10.0


class MembershipChannel(Protocol):
    """What reaches the provisioners of private sites."""

    def watch(self, site: str) -> AsyncGenerator[Report, None]:
        """Gives what a site says of itself, as it says it; raises SiteUnreachable in the end."""
        ...


class ConnectorStore(Protocol):
    """Where it is kept what sites expose."""

    async def replace_connectors(self, site: str, connectors: Sequence[Connector]) -> None:
        """Keeps what a site exposes in place of what it did."""
        ...


class SightingStore(Protocol):
    """Where it is kept when sites were last heard of."""

    async def note_sightings(self, sightings: Sequence[Sighting]) -> None:
        """Writes them down."""
        ...


class Memberships:
    """Calls the sites that `follow` names, and keeps how they stand in `standings`.

    `changed` is told when what a site exposes is kept anew, with the cause in a few words.
    """

    def __init__(
        self,
        channel: MembershipChannel,
        connectors: ConnectorStore,
        sightings: SightingStore,
        standings: Standings,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._channel = channel
        self._connectors = connectors
        self._sightings = sightings
        self._standings = standings
        self._now = now
        self._log = log
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._exposed: dict[str, tuple[Connector, ...]] = {}
        self._unwritten: dict[str, Sighting] = {}
        self._first_calls = asyncio.Semaphore(MOST_FIRST_CALLS)
        self._changed: Callable[[str], None] = _nobody
        self._writing = Periodic("sightings of sites", SIGHTINGS_INTERVAL_S, self._write, log)

    def on_change(self, changed: Callable[[str], None]) -> None:
        """Has `changed` called with the cause when what is kept of a site is another."""
        self._changed = changed

    def start(self) -> None:
        """Begins to write sightings down. The calls begin with `follow`."""
        self._writing.start()

    async def stop(self) -> None:
        """Hangs up everywhere, and writes down what is left."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self._writing.stop()
        try:
            await self._write()
        except StorageUnavailable:
            self._log.warning("when sites were seen last is not kept")

    def follow(self, sites: frozenset[str]) -> None:
        """Calls these sites from now on, and no others."""
        for site in self._tasks.keys() - sites:
            self._tasks.pop(site).cancel()
            self._exposed.pop(site, None)
            self._unwritten.pop(site, None)
            self._standings.forget(site)
        for site in sites - self._tasks.keys():
            self._tasks[site] = asyncio.create_task(self._call(site), name=f"membership of {site}")

    async def _call(self, site: str) -> None:
        while True:
            try:
                await self._listen(site)
            except SiteUnreachable as error:
                self._standings.lost(site, error.message)
            except TimeoutError:
                self._standings.lost(site, SiteUnreachable(site).message)
            except Exception:
                self._log.exception("a site can't be listened to", site=site)
                self._standings.lost(site, "What it says can't be used; the provisioner's log says why.")
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        away = len(self._tasks) - len(self._standings.linked)
        return max(RETRY_S, away / MOST_TRIES_PER_S) * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)

    async def _listen(self, site: str) -> None:
        # Others may have written meanwhile: whoever joins anew tells what it exposes.
        self._exposed.pop(site, None)
        async with aclosing(self._channel.watch(site)) as reports:
            async with self._first_calls, asyncio.timeout(FIRST_ANSWER_S):
                report = await anext(reports)
            while True:
                exposes_others = await self._hear(site, report)
                await asyncio.sleep(LEAST_PAUSE_EXPOSED_S if exposes_others else LEAST_PAUSE_S)
                async with asyncio.timeout(SILENCE_S):
                    report = await anext(reports)

    async def _hear(self, site: str, report: Report) -> bool:
        """Keeps what a site said, and tells whether it exposes something else."""
        now = self._now()
        self._standings.heard(site, report, now)
        self._unwritten[site] = Sighting(site, now, report.trust_sequence)
        try:
            connectors = connectors_told(site, report.connectors)
        except InvalidField as error:
            self._log.warning("what a site exposes can't be used", site=site, problem=error.message)
            return False
        if self._exposed.get(site) == connectors:
            return False
        try:
            await self._connectors.replace_connectors(site, connectors)
        except StorageUnavailable:
            # It is tried again with the next report.
            self._log.warning("the database is away", work="memberships", site=site)
            return False
        self._exposed[site] = connectors
        cause = _told(site, connectors)
        # The egress may have been told before, for another cause.
        self._log.info("a site exposes something else", site=site, exposed=cause)
        self._changed(cause)
        return True

    async def _write(self) -> None:
        sightings, self._unwritten = self._unwritten, {}
        try:
            await self._sightings.note_sightings(list(sightings.values()))
        except StorageUnavailable:
            self._unwritten = sightings | self._unwritten
            raise


def _told(site: str, connectors: Sequence[Connector]) -> str:
    """Tells what a site exposes, and which tenants it takes for itself."""
    tenants = sorted({connector.tenant for connector in connectors if connector.tenant})
    alone = f", of these some for {', '.join(tenants)} alone" if tenants else ""
    return f"site {site} exposes {len(connectors)} services{alone}"


def _nobody(cause: str) -> None:
    """Stands for a listener that is not there yet."""
