"""The driver for Skupper's system sites: it writes the files that Skupper reads, and runs Skupper's CLI.

What holds of it: one apply at a time; a file of another's hand is never written; the router restarts only where Skupper
runs on something else than is wanted; where that fails the former files come back.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredConnector,
    DesiredLink,
    DesiredListener,
    DesiredNetwork,
    DriverKind,
    DriverRefused,
    DriverUnavailable,
    ObservedNetwork,
)
from redoma_provisioner.network.drivers.skupper import resource
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, LinkCredentials, parse
from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper.redemption import Redeemer
from redoma_provisioner.network.drivers.skupper.resource import Resource
from redoma_provisioner.network.drivers.skupper_system import plan
from redoma_provisioner.network.drivers.skupper_system.access import (
    LinkAccess,
    access_of,
    kept_accesses,
    new_access,
    shown_link,
)
from redoma_provisioner.network.drivers.skupper_system.cli import SkupperCli
from redoma_provisioner.network.drivers.skupper_system.files import Known, ResourceFiles
from redoma_provisioner.network.drivers.skupper_system.installer import Installer
from redoma_provisioner.network.drivers.skupper_system.observer import Observer
from redoma_provisioner.network.drivers.skupper_system.ports import Ports, can_be_bound, ports_in, router_port
from redoma_provisioner.network.drivers.skupper_system.site import SystemSite
from redoma_provisioner.network.drivers.skupper_system.watch import Watch
from redoma_provisioner.trust.names import PUBLIC_SITE


class SkupperSystemDriver:
    """A site of Skupper on Podman, Docker or Linux."""

    def __init__(
        self,
        site: SystemSite,
        files: ResourceFiles,
        cli: SkupperCli,
        installer: Installer,
        observer: Observer,
        redeemer: Redeemer,
        watch: Watch,
        clock: Callable[[], float],
        nonce: Callable[[], str],
    ) -> None:
        """`clock`: seconds since the epoch. `nonce`: makes the name of each invitation's authority one of its own."""
        self._site = site
        self._files = files
        self._cli = cli
        self._installer = installer
        self._observer = observer
        self._redeemer = redeemer
        self._watch = watch
        self._clock = clock
        self._nonce = nonce
        self._applying = asyncio.Lock()

    @property
    def kind(self) -> DriverKind:
        """Which one it is."""
        return DriverKind.SKUPPER_SYSTEM

    async def apply(self, desired: DesiredNetwork) -> None:
        """Makes what is wanted true. A link or connector that can't be made is told once all else was applied."""
        async with self._applying:
            await self._installer.settled()
            await self._cli.check_version()
            known = await asyncio.to_thread(self._files.read)
            wanted = self._footing(desired.site, known)
            if self._site.link_access is not None:
                wanted += self._kept_accesses(desired.admitted, known)
                wanted += await asyncio.to_thread(self._listeners, desired.listeners, known)
            failures = list[DriverRefused | DriverUnavailable]()
            wanted += _connectors(desired.connectors, failures)
            wanted += await self._links(desired, known, failures)
            await self._installer.install(wanted, known)
            _raise_all(failures)

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """Tells what is there of what is wanted."""
        await self._cli.check_version()
        return await self._observer.observe(desired, await asyncio.to_thread(self._files.read))

    def changes(self) -> AsyncGenerator[None, None]:
        """Yields when Skupper has written a status, or its router's configuration."""
        return self._watch.changes()

    async def invite(self, site: str, ttl_s: float) -> str:
        """Gives a Link and its Secret, which holds a private key; it is this site's alone and ends with it.

        How often it is used can't be bounded; if nobody admits the site within `ttl_s` seconds it is taken away.
        """
        access = self._site.link_access
        if access is None:
            raise DriverRefused("This site is private: invite from the public one.")
        async with self._applying:
            await self._installer.settled()
            await self._cli.check_version()
            known = await asyncio.to_thread(self._files.read)
            wanted = [plan.again(one) for key, one in known.ours.items() if key[0] != "Site"]
            wanted += self._footing(PUBLIC_SITE, known)
            found = access_of(known.ours, site)
            made = plan.again(found) if found else await asyncio.to_thread(self._new_access, site, access, known, ttl_s)
            await self._installer.install(wanted if found else [*wanted, made], known)
            return shown_link(await self._cli.link_file(f"link-{made.name}", access.host))

    async def close(self) -> None:
        """Waits for an apply that runs, so that no reload is cut short."""
        async with self._applying:
            await self._installer.settled()

    def _footing(self, site: str, known: Known) -> list[Resource]:
        """Gives the Site that all else needs, unless another hand made one first: a namespace has one."""
        foreign = any(one.get("kind") == "Site" for one in known.foreign)
        if foreign and not any(kind == "Site" for kind, _ in known.ours):
            return []
        return [resource.site(object_name(site), edge=self._site.link_access is None)]

    def _new_access(self, site: str, access: LinkAccess, known: Known, ttl_s: float) -> Resource:
        ports = self._ports(known, access.first_port, access.bind_host)
        return new_access(site, access, ports, self._nonce(), self._clock() + ttl_s)

    def _kept_accesses(self, admitted: Sequence[AdmittedSite], known: Known) -> list[Resource]:
        return kept_accesses(known.ours, {one.id for one in admitted}, self._clock())

    def _listeners(self, wanted: Sequence[DesiredListener], known: Known) -> list[Resource]:
        ports = self._ports(known, self._site.first_port, self._site.listen_host)
        return plan.listeners(wanted, known, self._site.listen_host, ports)

    def _ports(self, known: Known, first: int, host: str) -> Ports:
        held = {own} if (own := router_port(self._site.place.router_config)) else set()
        for one in (*known.ours.values(), *known.foreign, *known.taken_up.values()):
            held |= ports_in(one)
        return Ports(first, held, partial(can_be_bound, host))

    async def _links(
        self, desired: DesiredNetwork, known: Known, failures: list[DriverRefused | DriverUnavailable]
    ) -> list[Resource]:
        """Gives the links' resources, redeeming what is new; one that fails leaves the others, and what it had."""
        made = list[Resource]()
        for one in desired.links:
            there = plan.link_there(one, known)
            if there is None:
                try:
                    there = plan.link_made(one, await self._credentials(one, desired.site))
                except (DriverRefused, DriverUnavailable) as error:
                    failures.append(error)
                    there = plan.link_left(one, known)
            made += there
        return made

    async def _credentials(self, link: DesiredLink, site: str) -> LinkCredentials:
        if not link.resources:
            raise DriverRefused(
                f"There is nothing to make the link {link.id} of. "
                "Join again with a new token: redoma van grant --site SITE on the public site."
            )
        found = await asyncio.to_thread(parse, link.resources)
        return await self._redeemer.redeem(found, site) if isinstance(found, AccessToken) else found


def _connectors(
    wanted: Sequence[DesiredConnector], failures: list[DriverRefused | DriverUnavailable]
) -> list[Resource]:
    made = list[Resource]()
    for one in wanted:
        try:
            made.append(plan.connector_of(one))
        except DriverRefused as error:
            failures.append(error)
    return made


def _raise_all(failures: Sequence[DriverRefused | DriverUnavailable]) -> None:
    """Raises one error for all, which says that trying again helps only where it helps one of them."""
    if failures:
        words = " ".join(str(one) for one in failures)
        passing = any(isinstance(one, DriverUnavailable) for one in failures)
        raise DriverUnavailable(words) if passing else DriverRefused(words)
