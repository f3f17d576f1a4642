"""Guessers are slowed by source: a few slips cost nothing, a flood no memory, and a neighbour nothing at all."""

import asyncio
from dataclasses import dataclass, field

import pytest

from redoma_tenant.errors import SignInSlowed
from redoma_tenant.failures import MAX_DELAY_S, MAX_HELD, MAX_SOURCES, REFUSED_FROM, SLOWED_FROM, WINDOW_S, Failures
from redoma_tenant.sources import Address, parse_address


def address(text: str) -> Address:
    """Gives an address."""
    parsed = parse_address(text)
    assert parsed is not None
    return parsed


GUESSER = address("198.51.100.7")
NEIGHBOUR = address("198.51.100.8")


@dataclass(slots=True)
class Time:
    """A clock that a sleep moves, and how long the sleeps were."""

    at_s: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        """Seconds."""
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        """Notes it, and returns at once."""
        self.slept.append(delay_s)


def make() -> tuple[Failures, Time]:
    """Gives what a test needs."""
    time = Time()
    return Failures(time.monotonic, time.sleep), time


async def fail(failures: Failures, times: int, source: Address | None = GUESSER) -> int:
    """Fails so often, and gives how many of them were refused at once."""
    refused = 0
    for _ in range(times):
        try:
            await failures.slow(source)
        except SignInSlowed as error:
            refused += error.retry_after_s == WINDOW_S
    return refused


async def test_a_few_slips_cost_nothing() -> None:
    failures, time = make()
    assert await fail(failures, SLOWED_FROM) == 0
    assert time.slept == []


async def test_delays_grow_to_a_bound_and_then_there_are_none() -> None:
    failures, time = make()
    assert await fail(failures, REFUSED_FROM + 40) == 40
    assert len(time.slept) == REFUSED_FROM - SLOWED_FROM
    assert time.slept == sorted(time.slept)
    assert 0 < time.slept[0] < 0.1
    assert time.slept[-1] == MAX_DELAY_S


async def test_a_neighbour_is_not_slowed() -> None:
    failures, time = make()
    await fail(failures, REFUSED_FROM + 1)
    time.slept.clear()
    assert await fail(failures, 1, NEIGHBOUR) == 0
    assert time.slept == []


async def test_an_ipv6_guesser_gains_nothing_by_another_address_of_its_network() -> None:
    failures, _ = make()
    refused = 0
    for number in range(REFUSED_FROM + 40):
        refused += await fail(failures, 1, address(f"2001:db8:0:1::{number:x}"))
    assert refused == 40
    assert await fail(failures, 1, address("2001:db8:0:2::1")) == 0


async def test_it_is_forgiven_within_two_minutes() -> None:
    failures, time = make()
    await fail(failures, REFUSED_FROM + 100)
    time.at_s += WINDOW_S
    assert await fail(failures, 1) == 1, "at the turn of the window the former one counts whole"
    time.at_s += WINDOW_S * 2
    time.slept.clear()
    assert await fail(failures, 1) == 0
    assert time.slept == []


async def test_a_slow_guesser_is_never_refused_at_once() -> None:
    failures, time = make()
    for _ in range(500):
        time.at_s += WINDOW_S / SLOWED_FROM * 1.2
        assert await fail(failures, 1) == 0
    assert time.slept == []


async def test_many_sources_take_bounded_memory() -> None:
    failures, _ = make()
    for number in range(MAX_SOURCES + 100):
        await failures.slow(address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(failures._counts) == MAX_SOURCES


async def test_only_so_many_are_held_at_once() -> None:
    release = asyncio.Event()

    async def sleep(_: float) -> None:
        await release.wait()

    failures = Failures(lambda: 0.0, sleep)
    held = []
    for number in range(MAX_HELD):
        source = address(f"10.0.{number >> 8}.{number & 255}")
        for _ in range(SLOWED_FROM):
            await failures.slow(source)
        held.append(asyncio.create_task(failures.slow(source)))
    await asyncio.sleep(0)
    with pytest.raises(SignInSlowed):
        for _ in range(SLOWED_FROM + 1):
            await failures.slow(GUESSER)
    release.set()
    await asyncio.gather(*held)
    await failures.slow(GUESSER)
