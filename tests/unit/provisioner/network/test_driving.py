"""A driver that fails is asked again, later and later, and not at the moment that all others are."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.network import driving as module
from redoma_provisioner.network.driver import DesiredListener, DesiredNetwork, DriverUnavailable, ObservedNetwork
from redoma_provisioner.network.driving import UNAVAILABLE, Driving
from redoma_provisioner.network.metrics import NetworkMetrics
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork

WANTED = DesiredNetwork(PUBLIC, listeners=(DesiredListener("a.model-0", "a"),))


class CountingDriver(FakeDriver):
    """Counts the calls, and fails as told."""

    applies = 0
    problem: Exception | None = None

    async def apply(self, desired: DesiredNetwork) -> None:
        """See NetworkDriver."""
        self.applies += 1
        if self.problem is not None:
            raise self.problem
        await super().apply(desired)

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        if self.problem is not None:
            raise self.problem
        return await super().observe(desired)


class Bench:
    """A Driving, and who waits for what it sees."""

    def __init__(self) -> None:
        self.network = FakeNetwork()
        self.driver = CountingDriver(self.network, PUBLIC)
        self.telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
        metrics = NetworkMetrics(self.telemetry).of_driver(self.driver.kind)
        clock = asyncio.get_running_loop().time
        self.driving = Driving(self.driver, PUBLIC, clock, metrics, structlog.get_logger())
        self.seen = asyncio.Event()
        self.driving.on_observed(self.seen.set)

    async def observed(self) -> module.Observation:
        """Waits for another observation."""
        async with asyncio.timeout(20):
            await self.seen.wait()
        self.seen.clear()
        return self.driving.observation

    def failures(self) -> float | None:
        """Gives how many failures were counted."""
        labels = {"driver": "fake", "reason": UNAVAILABLE}
        return self.telemetry.registry.get_sample_value("redoma_network_driver_failures_total", labels)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """One that runs."""
    bench = Bench()
    bench.driving.start()
    yield bench
    await bench.driving.stop()


async def test_it_is_applied_once_and_seen(bench: Bench) -> None:
    bench.driving.want(WANTED)
    observation = await bench.observed()
    assert observation.desired == WANTED and set(observation.network.listeners) == {"a.model-0"}
    bench.driving.want(DesiredNetwork(PUBLIC, listeners=(DesiredListener("a.model-0", "a"),)))
    assert bench.driver.applies == 1


async def test_a_driver_that_fails_with_a_defect_is_asked_again(bench: Bench) -> None:
    bench.driver.problem = ZeroDivisionError()
    bench.driving.want(WANTED)
    observation = await bench.observed()
    assert observation.absence is not None and observation.absence.message.endswith(".")
    assert bench.failures() == 1.0
    bench.driver.problem = None
    while (observation := await bench.observed()).absence is not None:
        pass
    assert set(observation.network.listeners) == {"a.model-0"}


async def test_what_people_want_is_tried_at_once_although_it_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 1_000.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 1_000.0)
    bench.driver.problem = DriverUnavailable("It is away; start it.")
    bench.driving.want(WANTED)
    await bench.observed()
    bench.driver.problem = None
    bench.driving.want(DesiredNetwork(PUBLIC))
    assert (await bench.observed()).absence is None


async def test_a_driver_that_hangs_is_given_up_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_CALL_S", 0.05)
    waits = asyncio.Event()

    async def hang(desired: DesiredNetwork) -> None:
        await waits.wait()

    monkeypatch.setattr(bench.driver, "apply", hang)
    bench.driving.want(WANTED)
    observation = await bench.observed()
    assert observation.absence is not None and "took longer" in observation.absence.message


def test_pauses_grow_to_half_a_minute_and_are_never_the_same() -> None:
    for failures in range(40):
        pauses = [module._pause(failures) for _ in range(200)]
        longest = min(30.0, 0.5 * 2**failures)
        assert longest / 2 <= min(pauses) and max(pauses) <= longest
        assert len(set(pauses)) > 100
