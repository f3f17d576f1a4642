"""Who is admitted no more, or no more with a certificate, has his unused tunnels closed until there are none."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from redoma_provisioner.network.driver import AdmittedSite, DesiredNetwork
from redoma_provisioner.network.drivers.embedded.egress_calls import EgressAway, Reach
from redoma_provisioner.network.drivers.embedded.flushing import ROUNDS_AT_S, Flushing
from redoma_provisioner.network.drivers.embedded.public import EmbeddedPublicDriver

OLD, NEW = "a" * 64, "b" * 64


class Egress:
    """Counts flushes, and has tunnels."""

    def __init__(self, tunnels: Mapping[str, int] | None = None, away: int = 0) -> None:
        self.tunnels = tunnels
        self.away = away
        self.flushed: list[str] = []

    async def flush(self, site: str) -> None:
        """See EgressCalls."""
        if self.away:
            self.away -= 1
            raise EgressAway("away")
        self.flushed.append(site)

    async def reach(self, routing_key: str) -> Reach:
        """See EgressCalls."""
        return Reach.NO_TUNNEL

    async def by_site(self) -> Mapping[str, int] | None:
        """See TunnelCount."""
        return self.tunnels


async def no_sleep(seconds: float) -> None:
    """Takes no time, but lets others run."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool], bound_s: float = 5.0) -> bool:
    """Waits until a condition holds, and says whether it did in time."""
    end = time.monotonic() + bound_s
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.001)
    return True


async def ended(flushing: Flushing, site: str) -> None:
    """Waits until a flush has ended."""
    assert await until(lambda: not flushing.is_under_way(site))


async def test_a_flush_goes_on_while_tunnels_are_left() -> None:
    egress = Egress({"a": 3})
    flushing = Flushing(egress, egress, structlog.get_logger(), no_sleep)
    flushing.begin("a", admitted=False)
    assert await until(lambda: len(egress.flushed) >= len(ROUNDS_AT_S) + 3)
    egress.tunnels = {}
    await ended(flushing, "a")


async def test_a_flush_of_an_admitted_site_ends_though_its_tunnels_come_back() -> None:
    egress = Egress({"a": 4})
    flushing = Flushing(egress, egress, structlog.get_logger(), no_sleep)
    flushing.begin("a", admitted=True)
    await ended(flushing, "a")
    assert len(egress.flushed) == len(ROUNDS_AT_S)


async def test_an_egress_that_is_away_is_asked_again() -> None:
    egress = Egress(None, away=5)
    flushing = Flushing(egress, egress, structlog.get_logger(), no_sleep)
    flushing.begin("a", admitted=False)
    await ended(flushing, "a")
    assert len(egress.flushed) == len(ROUNDS_AT_S)


def wanting(**sites: tuple[str, ...]) -> DesiredNetwork:
    """Gives what a public site wants that admits these, with their certificates."""
    return DesiredNetwork("public", admitted=tuple(AdmittedSite(site, digests) for site, digests in sites.items()))


async def first_flushed(driver: EmbeddedPublicDriver, egress: Egress, bound_s: float = 1.0) -> str:
    """Gives the site that is flushed first; empty if none is in time."""
    await until(lambda: bool(egress.flushed), bound_s)
    await driver.close()
    return egress.flushed[0] if egress.flushed else ""


def driver_of(egress: Egress) -> EmbeddedPublicDriver:
    """Gives a driver of that egress."""
    return EmbeddedPublicDriver(egress, egress, "van.example:8443", structlog.get_logger())


async def test_who_is_admitted_no_more_is_flushed() -> None:
    egress = Egress(None)
    driver = driver_of(egress)
    await driver.apply(wanting(a=(OLD,), b=(OLD,)))
    await driver.apply(wanting(b=(OLD,)))
    assert await first_flushed(driver, egress) == "a"


async def test_who_has_a_certificate_less_is_flushed() -> None:
    egress = Egress(None)
    driver = driver_of(egress)
    await driver.apply(wanting(a=(OLD, NEW)))
    await driver.apply(wanting(a=(NEW,)))
    assert await first_flushed(driver, egress) == "a"


async def test_who_has_a_certificate_more_is_not() -> None:
    egress = Egress({"a": 4})
    driver = driver_of(egress)
    await driver.apply(wanting(a=(OLD,)))
    await driver.apply(wanting(a=(OLD, NEW)))
    assert await first_flushed(driver, egress, 0.4) == ""


async def test_tunnels_that_a_former_process_did_not_get_to_close_are_closed() -> None:
    egress = Egress({"a": 4, "gone": 2})
    driver = driver_of(egress)
    await driver.apply(wanting(a=(OLD,)))
    assert await first_flushed(driver, egress) == "gone"
