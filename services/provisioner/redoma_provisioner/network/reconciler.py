"""Brings what is, towards what is wanted, on the public site.

Each round reads what is wanted, tells the driver, tells the egress, and makes the picture that people see. It waits for
nobody: the driver and the calls to the sites go at their own pace and wake it. So whoever is revoked leaves the egress
in the same round, also while what carries the network hangs.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.network.driving import Driving, Observation
from redoma_provisioner.network.feed import Feed
from redoma_provisioner.network.kept import BY_ADDRESS, KeptNetwork, desired_network, egress_state, what_changed
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.site import Site
from redoma_provisioner.network.standings import Standings
from redoma_provisioner.network.view import NetworkView, SiteView, Sources, make_view, site_views
from redoma_provisioner.trust.names import PROVISIONER

# How soon what another replica of this service wrote is noticed.
INTERVAL_S = 1.0
VIEW_PAUSE_S = 0.1
# How soon the picture shows what time alone changes, such as a certificate that expires.
SHOW_INTERVAL_S = 5.0
SETTLE_S = 5.0
# Of what is told while the database or the egress's snapshots are away.
MOST_CAUSES = 16
# A process that ended may not have told the egress of who was revoked so long before.
REVOKED_LATELY = timedelta(minutes=1)


class NetworkStore(Protocol):
    """Where the network is kept."""

    async def read_network(self, now: datetime) -> KeptNetwork:
        """Gives all sites, connectors, and certificates that count at `now`."""
        ...


class EdgePublisher(Protocol):
    """What makes the egress's configuration."""

    async def publish(self, state: EgressState, cause: str) -> None:
        """Serves the egress what leads to `state`. The same state again changes nothing."""
        ...


class Membership(Protocol):
    """What keeps calling the private sites."""

    def follow(self, sites: frozenset[str]) -> None:
        """Calls these sites from now on, and no others."""
        ...


class TrustSequence(Protocol):
    """What knows the trust bundles."""

    async def sequence(self) -> int:
        """Gives the number of the one that sites should have."""
        ...


class Reconciler:
    """The public site's loop.

    Attributes:
        views: The network as people see it, at most ten times a second.
        replicas: The replicas of models that calls can go to.
    """

    def __init__(
        self,
        store: NetworkStore,
        driving: Driving,
        publisher: EdgePublisher,
        membership: Membership,
        standings: Standings,
        trust: TrustSequence,
        metrics: NetworkMetrics,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._driving = driving
        self._publisher = publisher
        self._membership = membership
        self._standings = standings
        self._trust = trust
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic
        self._log = log
        self._started = now()
        self._published: EgressState | None = None
        # What the picture was made from last, and when.
        self._shown: tuple[KeptNetwork, Observation, int, int] | None = None
        self._shown_at = float("-inf")
        self._causes: list[str] = []
        self._begun = self._done = 0
        self._rounds = asyncio.Condition()
        self._work = Periodic("network", INTERVAL_S, self._round, log)
        self.views: Feed[NetworkView] = Feed(NetworkView(), VIEW_PAUSE_S)
        self.replicas: Feed[tuple[Endpoint, ...]] = Feed((), VIEW_PAUSE_S)
        self._sources = Sources(KeptNetwork(), driving.observation, driving.kind, standings, 0, now())
        driving.on_observed(self._work.wake)
        standings.on_change(lambda site: self._work.wake())

    def start(self) -> None:
        """Begins, and has the driver begin."""
        self._driving.start()
        self._work.start()

    async def stop(self) -> None:
        """Ends. The network stays as it is."""
        await self._work.stop()
        await self._driving.stop()

    def wake(self, cause: str) -> None:
        """Says that what is wanted has changed, and in a few words why, such as "site hospital-a revoked"."""
        if cause not in self._causes and len(self._causes) < MOST_CAUSES:
            self._causes.append(cause)
        self._work.wake()

    async def settled(self, cause: str) -> None:
        """Wakes it, and returns when the egress was told of all that was committed before.

        Raises:
            StorageUnavailable: It could not be told within SETTLE_S seconds; it is when the database answers again.
        """
        wanted = self._begun + 1
        self.wake(cause)
        try:
            async with asyncio.timeout(SETTLE_S), self._rounds:
                await self._rounds.wait_for(lambda: self._done >= wanted)
        except TimeoutError:
            self._log.warning("the egress was not told in time", cause=cause)
            raise StorageUnavailable() from None

    def site_views(self, sites: Iterable[Site]) -> list[SiteView]:
        """Gives sites that were just read from the store with all that is known of them."""
        sources = replace(self._sources, now=self._now())
        return site_views(sites, sources, self.views.value)

    async def _round(self) -> None:
        self._begun += 1
        number, began = self._begun, self._monotonic()
        now = self._now()
        kept = await self._store.read_network(now)
        try:
            if self._knows_enough(kept):
                await self._publish(kept)
        finally:
            # After the egress, which is what cuts off whoever is revoked, and also if that can't be told.
            self._driving.want(desired_network(kept, self._driving.kind))
            self._follow(kept)
        async with self._rounds:
            self._done = number
            self._rounds.notify_all()
        # Who waits goes on before the picture is made, which of a thousand sites takes a while.
        await asyncio.sleep(0)
        await self._show(kept, now)
        self._metrics.reconciled(self._monotonic() - began)

    def _follow(self, kept: KeptNetwork) -> None:
        callable_ = frozenset(one.site for one in kept.connectors if one.service == PROVISIONER)
        self._membership.follow(callable_ & kept.members(self._driving.kind).keys())

    def _knows_enough(self, kept: KeptNetwork) -> bool:
        """Tells whether the egress can be told where to go. Until the addresses are known it keeps what it had before
        a restart, unless someone was revoked about then: he goes first."""
        if self._driving.kind not in BY_ADDRESS or self._driving.has_observed:
            return True
        lately = self._started - REVOKED_LATELY
        return any(site.revoke_time is not None and site.revoke_time > lately for site in kept.sites)

    async def _publish(self, kept: KeptNetwork) -> None:
        observed = self._driving.observation.network.listeners
        addresses = {key: listener.address for key, listener in observed.items()}
        state = egress_state(kept, self._driving.kind, addresses)
        self.replicas.set(state.replicas)
        if state == self._published:
            self._causes.clear()
            return
        causes, self._causes = self._causes, []
        try:
            await self._publisher.publish(state, ", ".join(causes) or what_changed(self._published, state))
        except BaseException:
            self._causes = [*causes, *self._causes]
            raise
        self._published = state

    async def _show(self, kept: KeptNetwork, now: datetime) -> None:
        sequence = await self._trust.sequence()
        shown = (kept, self._driving.observation, self._standings.changes, sequence)
        if shown == self._shown and self._monotonic() - self._shown_at < SHOW_INTERVAL_S:
            return
        self._shown, self._shown_at = shown, self._monotonic()
        sources = Sources(kept, self._driving.observation, self._driving.kind, self._standings, sequence, now)
        self._sources = sources
        view = make_view(sources, self.views.value)
        self.views.set(view)
        members = kept.members(self._driving.kind)
        joined = [site for site in view.sites.values() if site.site.id in members]
        linked = sum(site.linked for site in joined)
        self._metrics.sites(linked, len(joined) - linked)
