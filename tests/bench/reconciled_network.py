"""A public site's reconciler with its real database and control plane, many joined sites, and the fake driver."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import insert

from redoma_cli.local.home import Home
from redoma_cli.local.pki import DevelopmentAuthority, server_name
from redoma_kit.database import PLATFORM, Database
from redoma_kit.settings import MetricsSettings, TracingSettings, UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.bootstrap import EGRESS
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import EgressPublisher, Publisher
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.driving import Driving
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.reconciler import Reconciler
from redoma_provisioner.network.standings import Standings
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.settings import EgressSettings
from redoma_provisioner.store.schema import CERTIFICATES, CONNECTORS, SITES
from redoma_provisioner.store.sites import SqlSiteStore
from redoma_provisioner.store.snapshots import SqlSnapshotStore
from tests.bench.bare_egress import MAX_STREAM_S, PEER
from tests.bench.identities import proxy_files, tls_of
from tests.fakes.memory_network import FollowedSites, TrustNumber, a_report, exposed
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork, Made

ROUNDS_SUM, ROUNDS_COUNT = (f"redoma_network_reconcile_seconds_{part}" for part in ("sum", "count"))
LIFETIME = timedelta(days=30)
BOUND_S = 120.0
POLL_S = 0.001
ROWS_AT_ONCE = 2_000


def name_of(number: int) -> str:
    """Gives the id of a site."""
    return f"site-{number:05}"


@dataclass(slots=True)
class ToldPublisher:
    """The egress's publisher, which keeps what it was told last."""

    publisher: EgressPublisher
    state: EgressState = field(default_factory=EgressState)

    async def publish(self, state: EgressState, cause: str) -> None:
        """See EdgePublisher."""
        await self.publisher.publish(state, cause)
        self.state = state


@dataclass(frozen=True, slots=True)
class ReconciledNetwork:
    """A reconciler that was not started yet, and all around it."""

    database: Database
    telemetry: Telemetry
    network: FakeNetwork
    standings: Standings
    told: ToldPublisher
    reconciler: Reconciler

    async def join(self, numbers: Sequence[int]) -> None:
        """Has sites join, each with a model and a provisioner, and answer."""
        sites = [name_of(number) for number in numbers]
        now = datetime.now(UTC)
        tables = {
            SITES: [_site_row(site, now) for site in sites],
            CONNECTORS: [row for site in sites for row in _connector_rows(site)],
            CERTIFICATES: [_certificate_row(number, now) for number in numbers],
        }
        for table, rows in tables.items():
            for begin in range(0, len(rows), ROWS_AT_ONCE):
                async with self.database.transaction(PLATFORM) as session:
                    await session.execute(insert(table).values(rows[begin : begin + ROWS_AT_ONCE]))
        for site in sites:
            for name in ("link/public", f"connector/{site}.model-0", f"connector/{site}.provisioner"):
                self.network.end(site)[name] = Made(f"redoma/{site}", name, 0)
            self.standings.heard(site, a_report(site, now), now)

    async def idle_round_s(self) -> float:
        """Has it look once and gives how long the round took, in seconds."""
        seconds, rounds = self._rounds()
        await self.reconciler.settled("a look")
        await until(lambda: self._rounds()[1] > rounds, "the round is over")
        after_s, after = self._rounds()
        return (after_s - seconds) / (after - rounds)

    def leads_to(self, number: int) -> bool:
        """Tells whether the egress was told of a site's model."""
        key = f"{name_of(number)}.model-0"
        return any(endpoint.routing_key == key for endpoint in self.told.state.replicas)

    def is_driven(self, number: int) -> bool:
        """Tells whether the driver made what a site needs, and people see that its model is reachable."""
        view = self.reconciler.views.value.listeners.get(f"{name_of(number)}.model-0")
        return view is not None and any(one.type == "Reachable" and one.holds for one in view.conditions)

    def _rounds(self) -> tuple[float, float]:
        found = [self.telemetry.registry.get_sample_value(name) or 0.0 for name in (ROUNDS_SUM, ROUNDS_COUNT)]
        return found[0], found[1]


@asynccontextmanager
async def reconciled_network(folder: Path) -> AsyncIterator[ReconciledNetwork]:
    """Makes one with no site yet, on a database in `folder`, and stops it at the end."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    telemetry = Telemetry("provisioner", MetricsSettings(), TracingSettings())
    database = Database(f"sqlite+aiosqlite:///{folder}/provisioner.db", log, SCHEMA)
    await database.upgrade(MIGRATIONS)
    metrics = NetworkMetrics(telemetry)
    network, standings = FakeNetwork(), Standings()
    driver = FakeDriver(network, PUBLIC)
    told = ToldPublisher(_egress_publisher(folder, database, telemetry, log))
    monotonic = asyncio.get_running_loop().time
    reconciler = Reconciler(
        SqlSiteStore(database),
        Driving(driver, PUBLIC, monotonic, metrics.of_driver(driver.kind), log),
        told,
        FollowedSites(),
        standings,
        TrustNumber(),
        metrics,
        _now,
        monotonic,
        log,
    )
    try:
        yield ReconciledNetwork(database, telemetry, network, standings, told, reconciler)
    finally:
        await reconciler.stop()
        await database.close()


async def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds, and looks each millisecond.

    Raises:
        RuntimeError: It does not within BOUND_S seconds.
    """
    end = time.monotonic() + BOUND_S
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {BOUND_S:.0f} s: {what}")
        await asyncio.sleep(POLL_S)


def _egress_publisher(
    folder: Path, database: Database, telemetry: Telemetry, log: structlog.stdlib.BoundLogger
) -> EgressPublisher:
    home = Home(folder)
    home.create()
    authority = DevelopmentAuthority(home.pki)
    authority.ensure()
    publisher = Publisher(Encoder(envoy_descriptors()), SqlSnapshotStore(database), _now, log)
    # Nobody listens there: no Envoy is started.
    settings = EgressSettings(listen="127.0.0.1:1", tunnels="127.0.0.1:2")
    provisioner = UpstreamSettings(target="127.0.0.1:3", server_name=server_name("provisioner"))
    proxy = Proxy(EGRESS, PEER, EdgeMetrics(telemetry))
    files = tls_of(authority, EGRESS)
    return EgressPublisher(publisher, proxy, settings, provisioner, proxy_files(files), MAX_STREAM_S, files.ca_file)


def _now() -> datetime:
    return datetime.now(UTC)


def _site_row(site: str, now: datetime) -> dict[str, object]:
    return {
        "id": site,
        "display_name": "",
        "state": "JOINED",
        "driver": DriverKind.FAKE.value,
        "priority": 0,
        "version": 1,
        "create_time": now,
        "join_time": now,
        "trust_sequence": 1,
    }


def _connector_rows(site: str) -> list[dict[str, object]]:
    return [
        {
            "site_id": site,
            "routing_key": one.routing_key,
            "service": one.service,
            "target": one.target,
            "tenant_id": one.tenant,
        }
        for one in exposed(site)
    ]


def _certificate_row(number: int, now: datetime) -> dict[str, object]:
    return {
        "serial": f"{number:x}",
        "site_id": name_of(number),
        "service": "gateway",
        "fingerprint": f"{number:064x}",
        "issue_time": now,
        "expire_time": now + LIFETIME,
    }
