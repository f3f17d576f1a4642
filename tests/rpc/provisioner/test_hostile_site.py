"""A private site in wrong hands: what its provisioner says can harm nobody but itself."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from redoma.provisioner.v1 import condition_pb2, membership_pb2, network_pb2, site_pb2
from redoma_kit.errors import STATUS_DETAILS_KEY, Failure
from redoma_provisioner.errors import SiteRefused
from redoma_provisioner.network.memberships import LEAST_PAUSE_EXPOSED_S
from redoma_provisioner.servicers.network_forms import LONGEST_SENTENCE, LONGEST_WORD, MOST_CONDITIONS
from redoma_provisioner.trust.connectors import MAX_CONNECTORS
from tests.conftest import TestPki
from tests.fakes.membership_service import FakeEgress, FakeMember, _response
from tests.rpc.provisioner.network_site import BOUND_S, NETWORK, NetworkSite

EVIL, GOOD = "hospital-a", "hospital-b"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202eevil\u2066\u200b\0"
Response = membership_pb2.WatchMembershipResponse


@dataclass(slots=True)
class HostileEgress(FakeEgress):
    """Members of which EVIL says what `spoil` makes of it, again and again.

    Attributes:
        spoil: Changes a report, given its number.
        said: How many reports were taken from it.
    """

    spoil: Callable[[Response, int], None] = lambda response, number: None
    said: int = 0
    took: asyncio.Event = field(default_factory=asyncio.Event)

    async def WatchMembership(
        self, request: membership_pb2.WatchMembershipRequest, context: Any
    ) -> AsyncIterator[Response]:
        """Tells how a site is, or what EVIL would like it to be."""
        if not dict(context.invocation_metadata())["redoma-replica"].startswith(EVIL):
            async for response in FakeEgress.WatchMembership(self, request, context):
                yield response
            return
        for number in count():
            response = _response(EVIL, FakeMember())
            self.spoil(response, number)
            yield response
            self.said += 1
            self.took.set()

    async def CreateCertificateRequests(
        self, request: membership_pb2.CreateCertificateRequestsRequest, context: Any
    ) -> membership_pb2.CreateCertificateRequestsResponse:
        """Refuses in words that a terminal obeys."""
        failure = Failure(grpc.StatusCode.FAILED_PRECONDITION, ESCAPES, ESCAPES + "x" * 3_000, {})
        details = failure.status().SerializeToString()
        await context.abort(failure.code, "refused", ((STATUS_DETAILS_KEY, details),))
        raise AssertionError


@pytest.fixture
async def hostile(migrated_url: str, pki: TestPki, tmp_path: Path) -> AsyncIterator[NetworkSite]:
    """A network that two sites have joined, of which EVIL answers as a test wants it."""
    network = NetworkSite(pki, tmp_path, migrated_url, egress=HostileEgress())
    await network.start()
    network.egress.change(GOOD, FakeMember(sequence=7))
    for site in (GOOD, EVIL):
        await network.join(site)
    yield network
    await network.close()


def spoil(network: NetworkSite, change: Callable[[Response, int], None]) -> None:
    """Has EVIL say that from now on."""
    assert isinstance(network.egress, HostileEgress)
    network.egress.spoil = change


async def test_what_a_site_says_of_itself_can_not_move_an_operator_s_terminal(hostile: NetworkSite) -> None:
    def change(response: Response, number: int) -> None:
        for _ in range(100):
            condition = response.connectors[0].conditions.add(type=ESCAPES, reason=ESCAPES, message=ESCAPES)
            condition.status = 99  # type: ignore[assignment]
            condition.message += "x" * 10_000
        response.version = ESCAPES + "y" * 10_000
        response.connectors[0].conditions.insert(0, condition_pb2.Condition(type=ESCAPES))

    spoil(hostile, change)
    await hostile.until_linked(EVIL)
    request = network_pb2.ListConnectorsRequest(parent=f"sites/{EVIL}")
    connectors = (await hostile.call(NETWORK + "ListConnectors", request)).connectors
    told = [condition for connector in connectors for condition in connector.conditions]
    assert any("owned" in condition.type for condition in told), "it is shown, without what it does"
    for condition in told:
        assert (condition.type + condition.reason + condition.message).isprintable()
        assert max(len(condition.type), len(condition.reason)) <= LONGEST_WORD
        assert len(condition.message) <= LONGEST_SENTENCE
    assert max(len(connector.conditions) for connector in connectors) <= MOST_CONDITIONS
    report = hostile.parts.standings.of(EVIL).report
    assert report is not None and report.version.isprintable() and len(report.version) <= LONGEST_WORD


async def test_a_number_that_no_database_keeps_takes_no_other_site_s_sighting_away(hostile: NetworkSite) -> None:
    def change(response: Response, number: int) -> None:
        response.trust_sequence = (2**63 - 1, -(2**63), -1, 2**31)[number % 4]

    spoil(hostile, change)
    await hostile.until_linked(GOOD)
    async with asyncio.timeout(BOUND_S):
        await hostile.egress.took.wait()  # type: ignore[attr-defined]
    await hostile.parts._memberships._write()
    good = await hostile.parts.sites.get(GOOD)
    assert good.last_seen_time is not None and good.trust_sequence == 7
    assert (await hostile.parts.sites.get(EVIL)).trust_sequence in range(2**31)


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
async def test_a_site_that_never_stops_talking_is_heard_no_more_than_now_and_then(hostile: NetworkSite) -> None:
    kept: list[int] = []
    store = hostile.parts._memberships._connectors
    keep = store.replace_connectors

    class Counted:
        async def replace_connectors(self, site: str, connectors: Any) -> None:
            kept.append(len(connectors))
            await keep(site, connectors)

    hostile.parts._memberships._connectors = Counted()

    def change(response: Response, number: int) -> None:
        response.connectors[0].routing_key = f"{EVIL}.model-{number}"

    spoil(hostile, change)
    await hostile.until_linked(EVIL)
    begun, kept[:] = asyncio.get_running_loop().time(), []
    await hostile.until(lambda: len(kept) >= 3, "three more changes")
    assert asyncio.get_running_loop().time() - begun >= 2 * LEAST_PAUSE_EXPOSED_S
    await hostile.until_linked(GOOD)


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
async def test_a_site_that_exposes_ten_thousand_services_exposes_none_of_them(hostile: NetworkSite) -> None:
    def change(response: Response, number: int) -> None:
        own = [site_pb2.Connector(routing_key=f"{EVIL}.model-{n}", target="unix:m") for n in range(10_000)]
        response.connectors.extend(own)

    spoil(hostile, change)
    await hostile.until_linked(EVIL)
    await hostile.until_linked(GOOD)
    report = hostile.parts.standings.of(EVIL).report
    assert report is not None and len(report.connectors) == MAX_CONNECTORS + 1
    assert len(report.connector_conditions) <= MAX_CONNECTORS + 1
    request = network_pb2.ListConnectorsRequest(parent=f"sites/{EVIL}")
    connectors = (await hostile.call(NETWORK + "ListConnectors", request)).connectors
    assert len(connectors) == 2, "those that it joined with"


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1])
async def test_a_clock_that_is_no_time_is_told_as_no_answer(hostile: NetworkSite, seconds: int) -> None:
    def change(response: Response, number: int) -> None:
        response.clock.seconds = seconds

    spoil(hostile, change)
    await hostile.until_linked(GOOD)
    await hostile.until(lambda: bool(hostile.parts.standings.of(EVIL).problem), "EVIL can't be understood")
    assert not hostile.parts.standings.of(EVIL).linked
    assert '"level": "error"' not in hostile.log_text.getvalue()


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seconds", [-62_135_596_800, 253_402_300_799])
async def test_a_clock_of_another_age_is_told_and_breaks_nothing(hostile: NetworkSite, seconds: int) -> None:
    def change(response: Response, number: int) -> None:
        response.clock.seconds = response.certificate_expire_time.seconds = seconds

    spoil(hostile, change)
    await hostile.until_linked(EVIL)
    request = network_pb2.GetSiteRequest(name=f"sites/{EVIL}")
    site = (await hostile.call(NETWORK + "GetSite", request)).site
    assert {"ClockOutOfStep"} <= {condition.reason for condition in site.conditions}


async def test_which_tenants_a_site_takes_for_itself_is_written_where_operators_look(hostile: NetworkSite) -> None:
    """Nothing but the site's own word says so: see the record of the decision on joining."""

    memberships, told = hostile.parts._memberships, asyncio.Event()
    tell = memberships._changed

    def changed(cause: str) -> None:
        tell(cause)
        if "acme" in cause:
            told.set()

    def change(response: Response, number: int) -> None:
        response.connectors[0].tenant = "tenants/acme"

    memberships.on_change(changed)
    spoil(hostile, change)
    async with asyncio.timeout(BOUND_S):
        await told.wait()
    assert re.search(f"{EVIL} exposes .* for acme alone", hostile.log_text.getvalue())
    await hostile.until(
        lambda: any(one.connector.tenant for one in hostile.parts.reconciler.views.value.connectors.values()), "shown"
    )
    request = network_pb2.ListConnectorsRequest(parent=f"sites/{EVIL}")
    connectors = (await hostile.call(NETWORK + "ListConnectors", request)).connectors
    assert {connector.tenant for connector in connectors} == {"", "tenants/acme"}


async def test_a_refusal_in_words_that_a_terminal_obeys_is_told_without_them(hostile: NetworkSite) -> None:
    with pytest.raises(SiteRefused) as raised:
        await hostile.parts.channel.create_certificate_requests(EVIL)
    assert "owned" in raised.value.message and raised.value.message.isprintable()
    assert len(raised.value.message) <= LONGEST_SENTENCE + 100
    assert all(value.isprintable() for value in raised.value.metadata.values())
