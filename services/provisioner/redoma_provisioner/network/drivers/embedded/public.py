"""The public site's end.

The control plane tells the egress what it leads to. What is left to do here is to close the tunnels of who is admitted
no more; and to tell what can be seen.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

import structlog

from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredNetwork,
    DriverKind,
    ObservedLink,
    ObservedListener,
    ObservedNetwork,
)
from redoma_provisioner.network.drivers.embedded.egress_calls import Reach
from redoma_provisioner.network.drivers.embedded.flushing import Flushing, TunnelCount
from redoma_provisioner.network.drivers.embedded.sentences import link_conditions, listener_conditions

WATCH_INTERVAL_S = 1.0


class EgressCalls(Protocol):
    """What the egress can be asked."""

    async def flush(self, site: str) -> None:
        """Closes tunnels of a site that nothing uses; raises EgressAway."""
        ...

    async def reach(self, routing_key: str) -> Reach:
        """Calls a service of a private site, and says what came of it."""
        ...


class EmbeddedPublicDriver:
    """Watches the egress, whose address for private sites is `address`."""

    def __init__(
        self, calls: EgressCalls, tunnels: TunnelCount, address: str, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._calls = calls
        self._tunnels = tunnels
        self._address = address
        self._flushing = Flushing(calls, tunnels, log)
        self._admitted: dict[str, AdmittedSite] = {}

    @property
    def kind(self) -> DriverKind:
        """See NetworkDriver."""
        return DriverKind.EMBEDDED

    async def apply(self, desired: DesiredNetwork) -> None:
        """Closes the tunnels of those who are admitted no more, or no more with a certificate that they were.

        What a former process left of them is found by the tunnels that are there.
        """
        admitted = {site.id: site for site in desired.admitted}
        for site, former in self._admitted.items():
            now = admitted.get(site)
            if now is None or set(former.certificates) - set(now.certificates):
                self._flushing.begin(site, admitted=now is not None)
        for site in (await self._tunnels.by_site() or {}).keys() - admitted.keys():
            if not self._flushing.is_under_way(site):
                self._flushing.begin(site, admitted=False)
        self._admitted = admitted

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        counts = await self._tunnels.by_site()
        keys = [listener.routing_key for listener in desired.listeners]
        reaches = dict(zip(keys, await asyncio.gather(*map(self._calls.reach, keys)), strict=True))
        links = {}
        for site in desired.admitted:
            of_site = [reaches[one.routing_key] for one in desired.listeners if one.site == site.id]
            count = None if counts is None else counts.get(site.id, 0)
            links[site.id] = ObservedLink(link_conditions(site, count, of_site, self._address), count or 0)
        listeners = {
            listener.routing_key: ObservedListener(listener_conditions(listener, reaches[listener.routing_key]))
            for listener in desired.listeners
        }
        return ObservedNetwork(links, listeners)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields when a site's tunnels came or went."""
        seen = await self._tunnels.by_site()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            former, seen = seen, await self._tunnels.by_site()
            if former is None or seen is None or former.keys() != seen.keys():
                yield None

    async def invite(self, site: str, ttl_s: float) -> str:
        """Gives nothing: a certificate is all that a site needs."""
        return ""

    async def close(self) -> None:
        """See NetworkDriver."""
        await self._flushing.stop()
