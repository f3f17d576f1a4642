"""Brings what is, towards what is wanted, on a private site: its link, and what it exposes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from redoma_kit.periodic import Periodic
from redoma_provisioner.edge.state import Exposed, GatewayState
from redoma_provisioner.network.condition import CONFIGURED, MATCHED, OPERATIONAL, Condition, carried_on
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import DesiredConnector, DesiredLink, DesiredNetwork
from redoma_provisioner.network.driving import Driving, Observation
from redoma_provisioner.network.kept import BY_ADDRESS
from redoma_provisioner.network.told import told
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.membership import Membership, MembershipState

INTERVAL_S = 5.0


class GatewayPublisher(Protocol):
    """What makes the gateway's configuration."""

    async def publish(self, state: GatewayState, cause: str) -> None:
        """Serves the gateway what does `state`. The same state again changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class PrivateSite:
    """What a private site wants.

    Attributes:
        id: Its id.
        link: Its link to the public site.
        exposed: What it exposes.
        tunnels: How many connections its gateway keeps to the public site, with the embedded driver.
    """

    id: str
    link: DesiredLink
    exposed: tuple[Connector, ...]
    tunnels: int = 4


class PrivateReconciler:
    """A private site's loop. What it sees becomes part of what the site says of itself, `membership`."""

    def __init__(
        self,
        site: PrivateSite,
        driving: Driving,
        publisher: GatewayPublisher,
        membership: MembershipState,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._site = site
        self._driving = driving
        self._publisher = publisher
        self._membership = membership
        self._now = now
        self._has_published = False
        self._work = Periodic("network", INTERVAL_S, self._round, log)
        driving.on_observed(self._work.wake)

    def start(self) -> None:
        """Begins, and has the driver begin."""
        self._driving.start()
        self._work.start()

    async def stop(self) -> None:
        """Ends. The network stays as it is."""
        await self._work.stop()
        await self._driving.stop()

    async def _round(self) -> None:
        self._driving.want(_desired(self._site))
        if not self._has_published and self._driving.kind not in BY_ADDRESS:
            await self._publisher.publish(_gateway_state(self._site), "the service started")
            self._has_published = True
        self._membership.set(self._told(self._membership.membership))

    def _told(self, former: Membership) -> Membership:
        observation, now = self._driving.observation, self._now()
        connectors = {}
        for connector in self._site.exposed:
            key = connector.routing_key
            seen = observation.network.connectors.get(key)
            conditions = told(observation, () if seen is None else seen.conditions, (CONFIGURED, MATCHED))
            connectors[key] = carried_on(now, former.connector_conditions.get(key, ()), conditions)
        return replace(
            former,
            connectors=exposed_connectors(self._site.exposed),
            conditions=carried_on(now, former.conditions, (self._linked(observation),)),
            connector_conditions=connectors,
        )

    def _linked(self, observation: Observation) -> Condition:
        """Gives what the driver says of the link, as one of the things that are said of a site."""
        seen = observation.network.links.get(self._site.link.id)
        (link,) = [
            condition
            for condition in told(observation, () if seen is None else seen.conditions, (OPERATIONAL,))
            if condition.type == OPERATIONAL
        ]
        return replace(link, type="Linked")


def exposed_connectors(connectors: Sequence[Connector]) -> tuple[ExposedConnector, ...]:
    """Gives what a site exposes as it tells it to the public one."""
    return tuple(ExposedConnector(one.routing_key, one.service, one.target, one.tenant) for one in connectors)


def _desired(site: PrivateSite) -> DesiredNetwork:
    return DesiredNetwork(
        site.id,
        links=(site.link,),
        connectors=tuple(DesiredConnector(connector.routing_key, connector.target) for connector in site.exposed),
    )


def _gateway_state(site: PrivateSite) -> GatewayState:
    return GatewayState(
        site.id,
        site.link.address,
        tuple(Exposed(connector.routing_key, connector.service, connector.target) for connector in site.exposed),
        site.tunnels,
    )
