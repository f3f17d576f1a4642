"""The public site's reconciler on a fake driver, with all it works with kept in memory."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.errors import SiteUnreachable
from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import DriverKind, NetworkDriver
from redoma_provisioner.network.driving import Driving
from redoma_provisioner.network.kept import KeptNetwork
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.reconciler import Reconciler
from redoma_provisioner.network.site import Sighting, Site, SiteCertificates, SiteState
from redoma_provisioner.network.standings import Report, Standings
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.names import MODEL, PROVISIONER
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
BOUND_S = 20.0


@dataclass(slots=True)
class SetClock:
    """A clock that stands until a test moves it."""

    time: datetime = START

    def __call__(self) -> datetime:
        return self.time

    def move(self, **by: float) -> None:
        """Moves it ahead."""
        self.time += timedelta(**by)


def a_site(site: str, state: SiteState = SiteState.JOINED, priority: int = 0) -> Site:
    """Gives a site of the fake driver."""
    return Site(site, "", state, DriverKind.FAKE, priority, 1, START, START)


def exposed(site: str, models: int = 1) -> tuple[Connector, ...]:
    """Gives what a site with so many replicas exposes."""
    return (
        *(Connector(site, f"{site}.model-{number}", MODEL, f"unix:model-{number}.sock") for number in range(models)),
        Connector(site, f"{site}.provisioner", PROVISIONER, "unix:provisioner.sock"),
    )


@dataclass(slots=True)
class MemoryStore:
    """A store of the network; `hold` makes readings wait."""

    kept: KeptNetwork = field(default_factory=KeptNetwork)
    reads: int = 0
    sightings: list[Sighting] = field(default_factory=list)

    def join(self, *sites: str, models: int = 1) -> None:
        """Adds sites that have joined, with what they expose."""
        certificates = {site: SiteCertificates((f"{site:*<64}",), START + timedelta(days=30)) for site in sites}
        self.kept = KeptNetwork(
            sites=(*self.kept.sites, *(a_site(site) for site in sites)),
            connectors=(*self.kept.connectors, *(one for site in sites for one in exposed(site, models))),
            certificates={**self.kept.certificates, **certificates},
        )

    def revoke(self, site: str) -> None:
        """Revokes a site."""
        sites = tuple(
            replace(one, state=SiteState.REVOKED, revoke_time=START) if one.id == site else one
            for one in self.kept.sites
        )
        self.kept = replace(self.kept, sites=sites)

    async def read_network(self, now: datetime) -> KeptNetwork:
        """See NetworkStore."""
        self.reads += 1
        return self.kept

    async def replace_connectors(self, site: str, connectors: Sequence[Connector]) -> None:
        """See ConnectorStore."""
        others = [one for one in self.kept.connectors if one.site != site]
        self.kept = replace(self.kept, connectors=(*others, *connectors))

    async def note_sightings(self, sightings: Sequence[Sighting]) -> None:
        """See SightingStore."""
        self.sightings.extend(sightings)


@dataclass(slots=True)
class MemoryPublisher:
    """Keeps what the egress was served, and can fail to."""

    states: list[tuple[EgressState, str]] = field(default_factory=list)
    fails: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, state: EgressState, cause: str) -> None:
        """See EdgePublisher."""
        if self.fails:
            raise RuntimeError("no room for another snapshot")
        self.states.append((state, cause))
        self._changed.set()

    @property
    def state(self) -> EgressState:
        """What it is served now."""
        return self.states[-1][0] if self.states else EgressState()

    async def until(self, check: Callable[[EgressState], bool]) -> EgressState:
        """Waits until it is served something that passes."""
        async with asyncio.timeout(BOUND_S):
            while not check(self.state):
                self._changed.clear()
                await self._changed.wait()
        return self.state


@dataclass(slots=True)
class FollowedSites:
    """Keeps whom the reconciler wants called."""

    sites: frozenset[str] = frozenset()

    def follow(self, sites: frozenset[str]) -> None:
        """See Membership."""
        self.sites = sites


@dataclass(slots=True)
class TrustNumber:
    """The number of the trust bundle."""

    number: int = 1

    async def sequence(self) -> int:
        """See TrustSequence."""
        return self.number


@dataclass(slots=True)
class MemoryNetwork:
    """A reconciler and all around it. `driver` can be another one than the fake network's."""

    clock: SetClock = field(default_factory=SetClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    network: FakeNetwork = field(default_factory=FakeNetwork)
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    followed: FollowedSites = field(default_factory=FollowedSites)
    trust: TrustNumber = field(default_factory=TrustNumber)
    standings: Standings = field(default_factory=Standings)
    telemetry: Telemetry = field(default_factory=lambda: Telemetry("test", MetricsSettings(), TracingSettings()))
    driver: NetworkDriver | None = None
    reconciler: Reconciler = field(init=False)
    driving: Driving = field(init=False)

    def start(self) -> None:
        """Makes another reconciler, as a restarted process does, and starts it."""
        log: structlog.stdlib.BoundLogger = structlog.get_logger()
        telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
        self.telemetry = telemetry
        metrics = NetworkMetrics(telemetry)
        monotonic = asyncio.get_running_loop().time
        driver = self.driver or FakeDriver(self.network, PUBLIC)
        self.driving = Driving(driver, PUBLIC, monotonic, metrics.of_driver(driver.kind), log)
        self.reconciler = Reconciler(
            self.store,
            self.driving,
            self.publisher,
            self.followed,
            self.standings,
            self.trust,
            metrics,
            self.clock,
            monotonic,
            log,
        )
        self.reconciler.start()

    async def stop(self) -> None:
        """Stops it."""
        await self.reconciler.stop()

    async def until(self, check: Callable[[], bool], what: str = "") -> None:
        """Waits until what people see passes."""
        try:
            async with asyncio.timeout(BOUND_S):
                async for _ in self.reconciler.views.follow():
                    if check():
                        return
        except TimeoutError:
            raise AssertionError(f"never: {what} ({self.reconciler.views.value})") from None

    def condition(self, site: str, type_: str) -> Condition:
        """Gives a condition of a site, of its link, or of a listener by its routing key."""
        view = self.reconciler.views.value
        conditions: tuple[Condition, ...] = ()
        if site in view.listeners:
            conditions = view.listeners[site].conditions
        elif site in view.sites:
            conditions = view.sites[site].conditions + (view.links[site].conditions if site in view.links else ())
        found = [condition for condition in conditions if condition.type == type_]
        return found[0] if found else Condition(type_, None, "Absent", "It is not there.")


def a_report(site: str, clock: datetime = START, sequence: int = 1, models: int = 1) -> Report:
    """Gives what a healthy site says."""
    connectors = tuple(
        ExposedConnector(one.routing_key, one.service, one.target, one.tenant) for one in exposed(site, models)
    )
    conditions = {one.routing_key: (Condition("Configured", True, "Applied"),) for one in connectors}
    return Report(connectors, (), conditions, sequence, clock + timedelta(days=30), clock, "0.1.0")


@dataclass(slots=True)
class MemoryChannel:
    """Private sites that answer in memory: `say` has one say something, `hang_up` ends its call."""

    reports: dict[str, Report] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    _changes: dict[str, asyncio.Event] = field(default_factory=dict)

    def say(self, site: str, report: Report) -> None:
        """Has a site say something, now and whenever it is called."""
        self.reports[site] = report
        self._change(site).set()

    def hang_up(self, site: str) -> None:
        """Has a site answer no more."""
        self.reports.pop(site, None)
        self._change(site).set()

    async def watch(self, site: str) -> AsyncGenerator[Report, None]:
        """See MembershipChannel."""
        self.calls[site] = self.calls.get(site, 0) + 1
        while site in self.reports:
            self._change(site).clear()
            yield self.reports[site]
            await self._change(site).wait()
        raise SiteUnreachable(site)

    def _change(self, site: str) -> asyncio.Event:
        return self._changes.setdefault(site, asyncio.Event())
