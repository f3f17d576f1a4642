"""The public site's loop: what is revoked leaves at once, whatever else is slow, away or refused."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import pytest

from redoma_kit.errors import StorageUnavailable
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.network import reconciler
from redoma_provisioner.network.driver import DesiredNetwork, DriverKind, ObservedNetwork
from tests.fakes.memory_network import MemoryNetwork, a_report
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork, Made

SITE = "hospital-a"
KEY = f"{SITE}.model-0"


@pytest.fixture
async def site() -> AsyncIterator[MemoryNetwork]:
    """A running reconciler with one joined site that is linked."""
    network = MemoryNetwork()
    network.store.join(SITE)
    make_link(network.network, SITE)
    network.start()
    await network.until(lambda: network.condition(KEY, "Reachable").holds is True, "the model is reachable")
    yield network
    await network.stop()


def make_link(network: FakeNetwork, site: str) -> None:
    """Has a private site make its link and expose what it has."""
    for name in ("link/public", f"connector/{site}.model-0", f"connector/{site}.provisioner"):
        network.end(site)[name] = Made("redoma", name, 0)


def leads_to(state: EgressState, site: str) -> bool:
    """Tells whether anything of the egress leads to a site."""
    endpoints = (*state.replicas, *state.provisioners)
    return any(one.site == site for one in endpoints) or any(one.id == site for one in state.tunnels)


class HangingDriver(FakeDriver):
    """A driver whose calls never end once it is told to."""

    hangs = False

    async def apply(self, desired: DesiredNetwork) -> None:
        """See NetworkDriver."""
        if self.hangs:
            await asyncio.Event().wait()
        await super().apply(desired)

    async def changes(self) -> AsyncGenerator[None, None]:
        """See NetworkDriver."""
        await asyncio.Event().wait()
        yield


async def test_a_joined_site_is_admitted_and_led_to(site: MemoryNetwork) -> None:
    state = site.publisher.state
    assert [endpoint.routing_key for endpoint in state.replicas] == [KEY]
    assert [endpoint.routing_key for endpoint in state.provisioners] == [f"{SITE}.provisioner"]
    assert [tunnel.id for tunnel in state.tunnels] == [SITE]
    assert state.tunnels[0].certificates == site.store.kept.certificates[SITE].gateway
    assert site.followed.sites == {SITE}
    assert [connector.routing_key for connector in site.reconciler.replicas.value] == [KEY]


async def test_a_revoked_site_leaves_the_egress_although_the_driver_hangs() -> None:
    network = MemoryNetwork()
    network.store.join(SITE, "hospital-b")
    driver = HangingDriver(network.network, PUBLIC)
    network.driver = driver
    network.start()
    await network.publisher.until(lambda state: leads_to(state, SITE))
    driver.hangs = True
    network.store.join("hospital-c")
    network.reconciler.wake("site hospital-c joined")
    await network.publisher.until(lambda state: leads_to(state, "hospital-c"))
    network.store.revoke(SITE)
    began = time.monotonic()
    await network.reconciler.settled("site hospital-a revoked")
    assert not leads_to(network.publisher.state, SITE)
    assert time.monotonic() - began < 1.0
    assert leads_to(network.publisher.state, "hospital-b")
    assert network.publisher.states[-1][1] == "site hospital-a revoked"
    assert SITE not in network.followed.sites
    await network.stop()


async def test_what_another_replica_wrote_is_noticed_without_being_told(site: MemoryNetwork) -> None:
    site.store.revoke(SITE)
    await site.publisher.until(lambda state: not leads_to(state, SITE))
    assert "site hospital-a removed" in site.publisher.states[-1][1]


async def test_nothing_is_published_or_written_while_nothing_changes(site: MemoryNetwork) -> None:
    published, writes = len(site.publisher.states), site.network.writes
    for _ in range(5):
        await site.reconciler.settled("a look")
    assert len(site.publisher.states) == published
    assert site.network.writes == writes


async def test_it_counts_who_is_linked_and_what_its_driver_could_not_do(site: MemoryNetwork) -> None:
    def counted(name: str, **labels: str) -> float | None:
        return site.telemetry.registry.get_sample_value(name, labels)

    site.standings.heard(SITE, a_report(SITE), site.clock())
    await site.until(lambda: site.condition(SITE, "Linked").holds is True, "it is linked")
    await site.reconciler.settled("a look")
    await site.until(lambda: counted("redoma_sites", linked="true") == 1.0, "it is counted")
    assert counted("redoma_sites", linked="false") == 0.0
    assert (counted("redoma_network_reconcile_seconds_count") or 0) > 0
    site.network.away = True
    site.network.changed()
    await site.until(lambda: site.condition(KEY, "Reachable").holds is None, "it is away")
    failures = counted("redoma_network_driver_failures_total", driver="fake", reason="DriverUnavailable")
    assert failures is not None and failures >= 1


async def test_a_restarted_process_goes_on_from_what_is_there(site: MemoryNetwork) -> None:
    inventory, state = dict(site.network.end(PUBLIC)), site.publisher.state
    await site.stop()
    site.start()
    await site.until(lambda: site.condition(KEY, "Reachable").holds is True, "reachable after the restart")
    assert site.network.end(PUBLIC) == inventory
    assert site.publisher.state == state


async def test_who_waits_for_the_egress_hears_that_it_was_not_told(
    site: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "SETTLE_S", 0.1)
    site.publisher.fails = True
    site.store.revoke(SITE)
    with pytest.raises(StorageUnavailable):
        await site.reconciler.settled("site hospital-a revoked")


async def test_a_snapshot_that_could_not_be_served_is_tried_again(site: MemoryNetwork) -> None:
    site.publisher.fails = True
    site.store.revoke(SITE)
    site.reconciler.wake("site hospital-a revoked")
    await asyncio.sleep(0)
    site.publisher.fails = False
    state = await site.publisher.until(lambda state: not leads_to(state, SITE))
    assert state.tunnels == ()


async def test_a_refusal_is_told_in_its_words_and_holds_up_nobody_else(site: MemoryNetwork) -> None:
    site.network.refusals["listener/hospital-b.model-0"] = "quota is used up"
    site.store.join("hospital-b")
    make_link(site.network, "hospital-b")
    site.reconciler.wake("site hospital-b joined")
    await site.until(lambda: site.condition("hospital-b.model-0", "Configured").reason == "Refused", "it was refused")
    assert "quota is used up" in site.condition("hospital-b.model-0", "Configured").message
    await site.until(lambda: site.condition("hospital-b.provisioner", "Reachable").holds is True, "the other is there")
    assert site.condition(KEY, "Reachable").holds is True


async def test_what_is_away_is_told_and_tried_again_until_it_is_back(site: MemoryNetwork) -> None:
    site.network.away = True
    site.network.changed()
    await site.until(lambda: site.condition(KEY, "Reachable").reason == "DriverUnavailable", "it says so")
    assert site.condition(KEY, "Reachable").holds is None
    assert site.condition(SITE, "Operational").message == "The fake network is away; bring it back."
    assert leads_to(site.publisher.state, SITE), "what can't be looked at is not taken for gone"
    site.network.away = False
    await site.until(lambda: site.condition(KEY, "Reachable").holds is True, "it is back")


async def test_what_someone_took_away_is_made_again(site: MemoryNetwork) -> None:
    site.network.vanish(PUBLIC, f"listener/{KEY}")
    await site.network.until(lambda: f"listener/{KEY}" in site.network.end(PUBLIC))


async def test_what_others_made_stays(site: MemoryNetwork) -> None:
    stranger = Made("somebody", "theirs", 7)
    site.network.end(PUBLIC)["listener/theirs"] = stranger
    site.store.revoke(SITE)
    await site.reconciler.settled("site hospital-a revoked")
    await site.until(lambda: KEY not in site.reconciler.views.value.listeners, "it is gone")
    await site.network.until(lambda: f"listener/{KEY}" not in site.network.end(PUBLIC))
    assert site.network.end(PUBLIC)["listener/theirs"] == stranger


async def test_a_cut_link_says_since_when_and_why(site: MemoryNetwork) -> None:
    since = site.condition(SITE, "Operational").since
    site.clock.move(seconds=60)
    site.network.cut.add(SITE)
    site.network.changed()
    await site.until(lambda: site.condition(SITE, "Operational").holds is False, "the link is down")
    told = site.condition(SITE, "Operational")
    assert told.since == site.clock() != since
    assert told.message
    assert site.reconciler.views.value.links[SITE].operational_since is None
    site.clock.move(seconds=60)
    await site.reconciler.settled("a look")
    assert site.condition(SITE, "Operational").since == told.since


class AddressDriver(FakeDriver):
    """A driver that gives listeners addresses when it is told to."""

    kind = DriverKind.SKUPPER_SYSTEM
    address = ""

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        seen = await super().observe(desired)
        listeners = {key: type(one)(one.conditions, self.address) for key, one in seen.listeners.items()}
        return ObservedNetwork(seen.links, listeners, seen.connectors)


@pytest.fixture
async def by_address() -> AsyncIterator[MemoryNetwork]:
    """A reconciler on such a driver with two joined sites; it does not run yet."""
    network = MemoryNetwork()
    network.store.join(SITE, "hospital-b")
    network.driver = AddressDriver(network.network, PUBLIC)
    kept = network.store.kept
    sites = tuple(replace(one, driver=AddressDriver.kind) for one in kept.sites)
    network.store.kept = replace(kept, sites=sites)
    yield network
    await network.stop()


async def test_a_listener_without_an_address_is_not_led_to(by_address: MemoryNetwork) -> None:
    by_address.start()
    await by_address.until(lambda: SITE in by_address.reconciler.views.value.links, "it was looked at")
    assert by_address.publisher.state.replicas == ()
    assert isinstance(by_address.driver, AddressDriver)
    by_address.driver.address = "127.0.0.1:10001"
    by_address.network.changed()
    state = await by_address.publisher.until(lambda state: bool(state.replicas))
    assert state.replicas[0].address == "127.0.0.1:10001"
    assert state.replicas[0].service == "model"
    assert state.tunnels == ()


async def test_a_restart_while_the_driver_is_away_takes_nothing_from_the_egress(by_address: MemoryNetwork) -> None:
    by_address.network.away = True
    by_address.start()
    await by_address.until(
        lambda: by_address.condition(KEY, "Reachable").reason == "DriverUnavailable", "it was looked at"
    )
    await by_address.reconciler.settled("a look")
    assert by_address.publisher.states == []
    by_address.store.revoke(SITE)
    await by_address.reconciler.settled("site hospital-a revoked")
    assert len(by_address.publisher.states) == 1, "who is revoked goes, whatever is not known"
    assert not leads_to(by_address.publisher.state, SITE)


async def test_a_thousand_sites_are_no_more_than_a_thousand_times_one() -> None:
    network = MemoryNetwork()
    sites = [f"site-{number}" for number in range(1_000)]
    network.store.join(*sites, models=2)
    for site in sites:
        make_link(network.network, site)
    began = time.monotonic()
    network.start()
    await network.until(
        lambda: sum(one.conditions[1].holds is True for one in network.reconciler.views.value.links.values()) == 1_000,
        "all links are operational",
    )
    assert time.monotonic() - began < 15.0, "a round that compares each with each takes minutes"
    network.store.revoke("site-500")
    began = time.monotonic()
    await network.reconciler.settled("site-500 revoked")
    assert not leads_to(network.publisher.state, "site-500")
    assert time.monotonic() - began < 2.0
    await network.stop()
