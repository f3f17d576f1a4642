"""A private site's loop: its link is made, what it has is exposed, and it says of itself what the driver sees."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import structlog

from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.state import GatewayState
from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.connector import connectors_told
from redoma_provisioner.network.driver import DesiredLink, DriverKind
from redoma_provisioner.network.driving import Driving
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.private_reconciler import PrivateReconciler, PrivateSite
from redoma_provisioner.trust.keeper import KeptTrust
from redoma_provisioner.trust.membership import Membership, MembershipState
from tests.fakes.memory_network import START, SetClock, exposed
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork, Made

SITE = "hospital-a"
KEY = f"{SITE}.model-0"
BOUND_S = 20.0


class Bench:
    """The loop of a private site."""

    def __init__(self) -> None:
        self.network = FakeNetwork()
        self.clock = SetClock()
        self.published: list[GatewayState] = []
        self.fails = 0
        self._changed = asyncio.Event()
        kept = KeptTrust(SITE, 1, START + timedelta(days=30), DriverKind.FAKE, "egress.example:8443")
        self.state = MembershipState(Membership(kept), self.clock, self._changed.set)
        self.start()

    def start(self) -> None:
        """Makes another, as a restarted process does, and starts it."""
        log: structlog.stdlib.BoundLogger = structlog.get_logger()
        metrics = NetworkMetrics(Telemetry("test", MetricsSettings(), TracingSettings()))
        driver = FakeDriver(self.network, SITE)
        clock = asyncio.get_running_loop().time
        driving = Driving(driver, SITE, clock, metrics.of_driver(driver.kind), log)
        link = DesiredLink("public", "egress.example:8443")
        wanted = PrivateSite(SITE, link, exposed(SITE))
        self.loop = PrivateReconciler(wanted, driving, self, self.state, self.clock, log)
        self.loop.start()

    async def publish(self, state: GatewayState, cause: str) -> None:
        """See GatewayPublisher."""
        if self.fails:
            self.fails -= 1
            raise RuntimeError("no room for another snapshot")
        self.published.append(state)

    async def until(self, type_: str, holds: bool | None, key: str = "") -> Condition:
        """Waits until the site says something of itself, or of a connector."""
        async with asyncio.timeout(BOUND_S):
            while True:
                said = self.state.membership
                conditions = said.connector_conditions.get(key, ()) if key else said.conditions
                for condition in conditions:
                    if (condition.type, condition.holds) == (type_, holds):
                        return condition
                self._changed.clear()
                await self._changed.wait()

    def admit(self) -> None:
        """Has the public site admit this one and listen for it."""
        for name in (f"admitted/{SITE}", f"listener/{KEY}", f"listener/{SITE}.provisioner"):
            self.network.end(PUBLIC)[name] = Made("redoma", name, 0)
        self.network.changed()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """One that runs."""
    bench = Bench()
    yield bench
    await bench.loop.stop()


async def test_it_links_exposes_and_says_so(bench: Bench) -> None:
    bench.admit()
    linked = await bench.until("Linked", True)
    assert linked.since == bench.clock()
    await bench.until("Matched", True, KEY)
    assert connectors_told(SITE, bench.state.membership.connectors) == exposed(SITE)
    (gateway,) = bench.published
    assert (gateway.site, gateway.public_address) == (SITE, "egress.example:8443")
    assert [one.routing_key for one in gateway.exposed] == [KEY, f"{SITE}.provisioner"]


async def test_a_site_that_is_not_admitted_says_why_it_is_not_linked(bench: Bench) -> None:
    told = await bench.until("Linked", False)
    assert told.message.endswith(".")
    assert (await bench.until("Matched", False, KEY)).message.endswith(".")


async def test_a_cut_link_is_told_with_its_time(bench: Bench) -> None:
    bench.admit()
    await bench.until("Linked", True)
    bench.clock.move(seconds=90)
    bench.network.cut.add(SITE)
    bench.network.changed()
    assert (await bench.until("Linked", False)).since == bench.clock()


async def test_a_restart_changes_nothing(bench: Bench) -> None:
    bench.admit()
    await bench.until("Linked", True)
    inventory = dict(bench.network.end(SITE))
    await bench.loop.stop()
    bench.clock.move(seconds=90)
    bench.start()
    bench.network.cut.add(SITE)
    bench.network.changed()
    await bench.until("Linked", False)
    assert bench.network.end(SITE) == inventory


async def test_a_gateway_that_could_not_be_told_is_told_later() -> None:
    bench = Bench()
    bench.fails = 1
    bench.admit()
    await bench.until("Linked", True)
    assert len(bench.published) == 1
    await bench.loop.stop()
