"""A private site's end. The gateway is told by the control plane; this tells how its link is, and why there is none."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from redoma_provisioner.network.condition import CONFIGURED, MATCHED, OPERATIONAL, Condition
from redoma_provisioner.network.driver import (
    DesiredLink,
    DesiredNetwork,
    DriverKind,
    ObservedConnector,
    ObservedLink,
    ObservedNetwork,
)
from redoma_provisioner.network.drivers.embedded.admin import AdminAway
from redoma_provisioner.network.drivers.embedded.link_probe import LinkProblem

WATCH_INTERVAL_S = 1.0


class Tunnels(Protocol):
    """What knows how many tunnels the gateway has."""

    async def up(self) -> int | None:
        """Gives the number of tunnels that are up, None if nobody knows; raises AdminAway."""
        ...


class Probe(Protocol):
    """What finds out why there is no tunnel."""

    async def look(self, address: str) -> LinkProblem:
        """Dials the public site at host:port, and says what is wrong there."""
        ...


class EmbeddedPrivateDriver:
    """Watches the gateway."""

    def __init__(self, tunnels: Tunnels, probe: Probe) -> None:
        self._tunnels = tunnels
        self._probe = probe

    @property
    def kind(self) -> DriverKind:
        """See NetworkDriver."""
        return DriverKind.EMBEDDED

    async def apply(self, desired: DesiredNetwork) -> None:
        """Does nothing: the control plane tells the gateway all of it."""

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        links = {link.id: await self._link(link) for link in desired.links}
        connectors = {one.routing_key: ObservedConnector(_CONNECTOR) for one in desired.connectors}
        return ObservedNetwork(links, connectors=connectors)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields when the first tunnel came, or the last one went."""
        seen = await self._has_tunnels()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            former, seen = seen, await self._has_tunnels()
            if former != seen:
                yield None

    async def invite(self, site: str, ttl_s: float) -> str:
        """Gives nothing: nobody links to a private site."""
        return ""

    async def close(self) -> None:
        """See NetworkDriver."""

    async def _link(self, link: DesiredLink) -> ObservedLink:
        configured = Condition(CONFIGURED, True, "Served")
        try:
            tunnels = await self._tunnels.up()
        except AdminAway:
            message = "The gateway does not answer: look whether it runs, and at its log (`redoma status`)."
            return ObservedLink((configured, Condition(OPERATIONAL, False, "GatewayAway", message)))
        if tunnels is None:
            message = (
                "The public site knows: ask it with `redoma van status` there. gateway.admin_socket is not set here."
            )
            return ObservedLink((configured, Condition(OPERATIONAL, None, "NotKnownHere", message)))
        if tunnels:
            return ObservedLink((configured, Condition(OPERATIONAL, True, "TunnelsUp")), tunnels)
        problem = await self._probe.look(link.address)
        return ObservedLink((configured, Condition(OPERATIONAL, False, problem.reason, problem.message)))

    async def _has_tunnels(self) -> bool | None:
        try:
            return bool(await self._tunnels.up())
        except AdminAway:
            return None


_CONNECTOR = (
    Condition(CONFIGURED, True, "Served"),
    Condition(MATCHED, None, "NotKnownHere", "The public site knows: ask it with `redoma van status` there."),
)
