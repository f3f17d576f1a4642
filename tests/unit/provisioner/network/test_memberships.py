"""Who answers is linked; what a site says of others is not believed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog

from redoma_provisioner.network import memberships as module
from redoma_provisioner.network.memberships import Memberships
from redoma_provisioner.network.standings import Standing, Standings
from redoma_provisioner.trust.connectors import ExposedConnector
from tests.fakes.memory_network import MemoryChannel, MemoryStore, SetClock, a_report

SITE = "hospital-a"


class Bench:
    """Memberships, and who waits for what they say."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.store = MemoryStore()
        self.channel = MemoryChannel()
        self.standings = Standings()
        self.causes: list[str] = []
        self._changed = asyncio.Event()
        self.memberships = Memberships(
            self.channel, self.store, self.store, self.standings, self.clock, structlog.get_logger()
        )
        self.memberships.on_change(self._told)
        self.standings.on_change(lambda site: self._changed.set())

    def _told(self, cause: str) -> None:
        self.causes.append(cause)
        self._changed.set()

    async def told(self, number: int) -> None:
        """Waits until so many changes were told of."""
        async with asyncio.timeout(20):
            while len(self.causes) < number:
                self._changed.clear()
                await self._changed.wait()

    async def until(self, linked: bool, site: str = SITE) -> Standing:
        """Waits until a site is linked, or is not and says why."""
        async with asyncio.timeout(20):
            while not ((standing := self.standings.of(site)).linked is linked and (linked or standing.problem)):
                self._changed.clear()
                await self._changed.wait()
        return standing


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Memberships that call again soon."""
    for pause in ("RETRY_S", "LEAST_PAUSE_S", "LEAST_PAUSE_EXPOSED_S"):
        monkeypatch.setattr(module, pause, 0.02)
    bench = Bench()
    bench.memberships.start()
    yield bench
    await bench.memberships.stop()


async def test_a_site_that_answers_is_linked_and_one_that_hangs_up_is_not(bench: Bench) -> None:
    bench.channel.say(SITE, a_report(SITE))
    bench.memberships.follow(frozenset({SITE}))
    standing = await bench.until(linked=True)
    assert standing.heard_time == bench.clock()
    bench.channel.hang_up(SITE)
    standing = await bench.until(linked=False)
    assert SITE in standing.problem
    assert standing.report is not None, "what it said last is kept"
    bench.channel.say(SITE, a_report(SITE))
    await bench.until(linked=True)


async def test_one_that_is_silent_is_taken_for_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    bench.channel.say(SITE, a_report(SITE))
    bench.memberships.follow(frozenset({SITE}))
    await bench.until(linked=True)
    await bench.until(linked=False)


async def test_one_that_never_answers_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_ANSWER_S", 0.1)
    silent = [f"silent-{number}" for number in range(module.MOST_FIRST_CALLS)]

    async def watch(site: str) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield None

    answering = bench.channel.watch
    monkeypatch.setattr(
        MemoryChannel, "watch", lambda self, site: watch(site) if site.startswith("silent") else answering(site)
    )
    bench.channel.say(SITE, a_report(SITE))
    bench.memberships.follow(frozenset(silent))
    await asyncio.sleep(0)
    bench.memberships.follow(frozenset({*silent, SITE}))
    await bench.until(linked=True)


async def test_what_it_exposes_is_kept_when_it_changes_and_only_then(bench: Bench) -> None:
    bench.channel.say(SITE, a_report(SITE))
    bench.memberships.follow(frozenset({SITE}))
    await bench.told(1)
    bench.channel.say(SITE, a_report(SITE))
    bench.channel.say(SITE, a_report(SITE, models=2))
    await bench.told(2)
    assert bench.causes == [f"site {SITE} exposes 2 services", f"site {SITE} exposes 3 services"]
    assert [one.name for one in bench.store.kept.connectors] == ["model-0", "model-1", "provisioner"]


async def test_a_site_can_not_take_the_calls_of_another(bench: Bench) -> None:
    stolen = ExposedConnector("hospital-b.model-0", "model", "unix:model.sock")
    bench.channel.say(SITE, replace(a_report(SITE), connectors=(stolen,)))
    bench.memberships.follow(frozenset({SITE}))
    await bench.until(linked=True)
    bench.channel.say(SITE, a_report(SITE))
    await bench.told(1)
    assert {one.site for one in bench.store.kept.connectors} == {SITE}
    assert all(one.routing_key.startswith(f"{SITE}.") for one in bench.store.kept.connectors)


async def test_who_is_not_followed_any_more_is_forgotten_at_once(bench: Bench) -> None:
    bench.channel.say(SITE, a_report(SITE))
    bench.memberships.follow(frozenset({SITE}))
    await bench.until(linked=True)
    bench.memberships.follow(frozenset())
    assert bench.standings.of(SITE) == Standing()
    calls = bench.channel.calls[SITE]
    bench.channel.say(SITE, a_report(SITE, sequence=9))
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.standings.of(SITE) == Standing()
    assert bench.channel.calls[SITE] == calls


async def test_when_it_was_seen_is_written_now_and_then_and_at_the_end(bench: Bench) -> None:
    bench.channel.say(SITE, a_report(SITE, sequence=4))
    bench.memberships.follow(frozenset({SITE}))
    await bench.until(linked=True)
    await bench.memberships._write()
    await bench.memberships._write()
    (sighting,) = bench.store.sightings
    assert (sighting.site, sighting.trust_sequence) == (SITE, 4)


async def test_a_thousand_sites_that_are_away_are_no_flood(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.memberships.follow(frozenset(f"site-{number}" for number in range(1_000)))
    pauses = [bench.memberships._pause() for _ in range(100)]
    assert min(pauses) >= 5.0 and max(pauses) <= 10.0
