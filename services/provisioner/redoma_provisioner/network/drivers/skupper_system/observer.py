"""Looks at one site: its files, what Skupper says of it, and what a connection finds."""

import asyncio
from collections.abc import Mapping, Sequence

import yaml

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import (
    DesiredConnector,
    DesiredLink,
    DesiredListener,
    DesiredNetwork,
    ObservedConnector,
    ObservedLink,
    ObservedListener,
    ObservedNetwork,
)
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, parse
from redoma_provisioner.network.drivers.skupper.name import joined_address, object_name
from redoma_provisioner.network.drivers.skupper.probe import Probe, Trust
from redoma_provisioner.network.drivers.skupper.resource import Endpoint
from redoma_provisioner.network.drivers.skupper.status import peer_of, peer_sites, told
from redoma_provisioner.network.drivers.skupper_system import observation, plan
from redoma_provisioner.network.drivers.skupper_system.access import access_of
from redoma_provisioner.network.drivers.skupper_system.cli import SkupperCli
from redoma_provisioner.network.drivers.skupper_system.controller import controller_runs
from redoma_provisioner.network.drivers.skupper_system.files import Known, name_of, same
from redoma_provisioner.network.drivers.skupper_system.observation import Ground, LinkFindings
from redoma_provisioner.network.drivers.skupper_system.ports import ports_in
from redoma_provisioner.network.drivers.skupper_system.router import Router
from redoma_provisioner.network.drivers.skupper_system.site import SystemSite


class Observer:
    """Looks at one site; changes nothing."""

    def __init__(self, site: SystemSite, cli: SkupperCli, router: Router, probe: Probe) -> None:
        """Takes what it looks at, and by."""
        self._site = site
        self._cli = cli
        self._router = router
        self._probe = probe

    async def observe(self, desired: DesiredNetwork, known: Known) -> ObservedNetwork:
        """Tells what is there of what is wanted.

        Raises:
            DriverRefused, DriverUnavailable: Skupper's CLI does not tell.
        """
        ground = await self._ground(known)
        if self._site.link_access is None:
            links, connectors = await asyncio.gather(
                self._private_links(desired.links, known, ground), self._connectors(desired.connectors, known, ground)
            )
            return ObservedNetwork(links, {}, connectors)
        listeners = await self._listeners(desired.listeners, known, ground)
        return ObservedNetwork(await self._public_links(desired, listeners, known, ground), listeners)

    async def _ground(self, known: Known) -> Ground:
        up, controller = await asyncio.gather(
            self._router.is_up(), asyncio.to_thread(controller_runs, self._site.place.controller_lock)
        )
        router = self._router
        return Ground(
            known.started,
            up,
            controller,
            router.how_to_start(),
            router.how_to_read_log(),
            router.how_to_run_controller(),
        )

    async def _listeners(
        self, wanted: Sequence[DesiredListener], known: Known, ground: Ground
    ) -> dict[str, ObservedListener]:
        status = await self._cli.status("listener") if wanted else []

        async def see(one: DesiredListener) -> ObservedListener:
            name = object_name(one.routing_key)
            found = known.ours.get(("Listener", name))
            base = self._configured("Listener", name, known, ground)
            ports = ports_in(found) if found else set()
            port = next(iter(ports), 0)
            reached = bool(port) and ground.router_up and await self._probe.opens(self._site.listen_host, port)
            address = joined_address(self._site.listen_host, port) if port else ""
            manifest = observation.manifest_of(status, name)
            return observation.listener(base, told(manifest, "Matched"), reached, address, ground)

        return dict(zip([one.routing_key for one in wanted], await asyncio.gather(*map(see, wanted)), strict=True))

    async def _public_links(
        self, desired: DesiredNetwork, listeners: Mapping[str, ObservedListener], known: Known, ground: Ground
    ) -> dict[str, ObservedLink]:
        sites = [peer for one in await self._cli.status("site") for peer in peer_sites(one)] if desired.admitted else []
        reached = {one.site for one in desired.listeners if _is_reachable(listeners[one.routing_key])}
        seen = {}
        for one in desired.admitted:
            access = access_of(known.ours, one.id)
            base = self._configured("RouterAccess", name_of(access) if access else "", known, ground)
            seen[one.id] = observation.public_link(base, peer_of(sites, one.id), one.id in reached, ground)
        return seen

    async def _private_links(
        self, wanted: Sequence[DesiredLink], known: Known, ground: Ground
    ) -> dict[str, ObservedLink]:
        status = await self._cli.status("link") if wanted and ground.started else []
        seen = {}
        for one in wanted:
            name = plan.link_name(one)
            base = self._configured("Link", name, known, ground)
            word = told(observation.manifest_of(status, name), "Operational")
            probed = [] if word.holds and ground.current else await self._probe_endpoints(name, known)
            seen[one.id] = observation.private_link(base, LinkFindings(word, probed), ground)
        return seen

    async def _probe_endpoints(self, name: str, known: Known) -> list[tuple[Endpoint, Trust]]:
        """Tries where the link goes: an edge's router dials the endpoint of the role edge."""
        pair = [known.ours.get(("Link", name)), known.ours.get(("Secret", name))]
        if None in pair:
            return []
        credentials = parse(yaml.safe_dump_all([dict(one) for one in pair if one]))
        if isinstance(credentials, AccessToken):
            return []
        edges = [one for one in credentials.endpoints if one.role == "edge"]
        return [(one, await self._probe.trusts(one.host, one.port, credentials)) for one in edges]

    async def _connectors(
        self, wanted: Sequence[DesiredConnector], known: Known, ground: Ground
    ) -> dict[str, ObservedConnector]:
        status = await self._cli.status("connector") if wanted else []
        seen = {}
        for one in wanted:
            name = object_name(one.routing_key)
            base = self._configured("Connector", name, known, ground)
            word = told(observation.manifest_of(status, name), "Matched")
            seen[one.routing_key] = observation.connector(base, word, ground)
        return seen

    def _configured(self, kind: str, name: str, known: Known, ground: Ground) -> Condition:
        wanted = known.ours.get((kind, name))
        taken_up = wanted is not None and same(wanted, known.taken_up.get((kind, name)))
        return observation.configured(wanted is not None, taken_up, ground)


def _is_reachable(listener: ObservedListener) -> bool:
    return any(one.type == "Reachable" and one.holds is True for one in listener.conditions)
