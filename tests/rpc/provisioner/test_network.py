"""NetworkService as operators call it."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import grpc
import pytest

from redoma.provisioner.v1 import condition_pb2, network_pb2, site_pb2
from redoma_kit.errors import failure_from_status
from redoma_provisioner.edge.state import EgressState
from tests.fakes.membership_service import FakeMember
from tests.rpc.provisioner.network_site import NETWORK, NetworkSite

SITE = "hospital-a"
TRUE, FALSE = condition_pb2.Condition.STATUS_TRUE, condition_pb2.Condition.STATUS_FALSE


async def reason_of(call: Any) -> str:
    """Gives the reason that a call must fail for."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    failure = failure_from_status(raised.value)
    assert failure is not None, raised.value
    return failure.reason


async def get(network: NetworkSite, site: str = SITE) -> site_pb2.Site:
    """Gets a site."""
    response = await network.call(f"{NETWORK}GetSite", network_pb2.GetSiteRequest(name=f"sites/{site}"))
    found: site_pb2.Site = response.site
    return found


def condition(resource: Any, type_: str) -> condition_pb2.Condition:
    """Gives a condition of a resource."""
    (found,) = [one for one in resource.conditions if one.type == type_]
    assert isinstance(found, condition_pb2.Condition)
    return found


def leads_to(state: EgressState, site: str) -> bool:
    """Tells whether anything of the egress leads to a site."""
    endpoints = (*state.replicas, *state.provisioners)
    return any(one.site == site for one in endpoints) or any(one.id == site for one in state.tunnels)


async def test_a_site_that_joined_is_linked_when_its_provisioner_answers(network_on_each: NetworkSite) -> None:
    network = network_on_each
    await network.join(SITE)
    await network.until_linked(SITE, linked=False)
    network.egress.change(SITE, FakeMember(models=2))
    await network.until_linked(SITE)
    site = await get(network)
    assert site.name == f"sites/{SITE}" and site.state == site_pb2.Site.STATE_JOINED
    assert site.driver == site_pb2.DRIVER_FAKE
    for type_ in ("Joined", "Linked", "TrustCurrent", "ClockInStep", "CertificatesValid"):
        assert condition(site, type_).status == TRUE, type_
    assert site.HasField("last_seen_time") and site.HasField("certificate_expire_time")
    assert site.trust_sequence == 1
    await network.until(
        lambda: f"{SITE}.model-1" in network.parts.reconciler.views.value.connectors, "the replica that it told of"
    )
    listed = await network.call(f"{NETWORK}ListConnectors", network_pb2.ListConnectorsRequest(parent=f"sites/{SITE}"))
    assert [one.name for one in listed.connectors] == [
        f"sites/{SITE}/connectors/{name}" for name in ("model-0", "model-1", "provisioner")
    ]
    assert condition(listed.connectors[0], "Configured").status == TRUE
    links = await network.call(f"{NETWORK}ListLinks", network_pb2.ListLinksRequest(parent="sites/-"))
    (link,) = links.links
    assert link.tunnels > 0 and condition(link, "Operational").status == TRUE and link.HasField("operational_since")
    listeners = await network.call(f"{NETWORK}ListListeners", network_pb2.ListListenersRequest())
    assert {one.routing_key for one in listeners.listeners} >= {f"{SITE}.model-0", f"{SITE}.provisioner"}


async def test_a_site_that_falls_silent_is_told_and_comes_back_by_itself(network: NetworkSite) -> None:
    network.egress.change(SITE, FakeMember())
    await network.join(SITE)
    await network.until_linked(SITE)
    network.egress.change(SITE, None)
    await network.until_linked(SITE, linked=False)
    assert condition(await get(network), "Linked").message.endswith(".")
    network.egress.change(SITE, FakeMember())
    began = time.monotonic()
    await network.until_linked(SITE)
    assert time.monotonic() - began < 5.0


async def test_a_clock_that_is_off_says_how_to_mend_it(network: NetworkSite) -> None:
    network.egress.change(SITE, FakeMember(skew=timedelta(minutes=-10)))
    await network.join(SITE)
    await network.until_linked(SITE)
    told = condition(await get(network), "ClockInStep")
    assert told.status == FALSE and "behind" in told.message and "NTP" in told.message


async def test_a_revoked_site_is_cut_off_within_two_seconds(network_on_each: NetworkSite) -> None:
    network = network_on_each
    for site in (SITE, "hospital-b"):
        network.egress.change(site, FakeMember())
        await network.join(site)
        await network.until_linked(site)
    began = time.monotonic()
    response = await network.call(f"{NETWORK}RevokeSite", network_pb2.RevokeSiteRequest(name=f"sites/{SITE}"))
    assert response.site.state == site_pb2.Site.STATE_REVOKED
    await network.publisher.until(lambda state: not leads_to(state, SITE))
    assert time.monotonic() - began < 2.0
    assert leads_to(network.publisher.state, "hospital-b")
    assert network.publisher.states[-1][1] == f"site {SITE} revoked"
    assert condition(await get(network), "Joined").reason == "Revoked"
    again = await network.call(f"{NETWORK}RevokeSite", network_pb2.RevokeSiteRequest(name=f"sites/{SITE}"))
    assert again.site.revoke_time == response.site.revoke_time
    assert not network.parts.standings.of(SITE).linked


async def test_only_a_site_outside_the_network_is_deleted(network_on_each: NetworkSite) -> None:
    network = network_on_each
    await network.join(SITE)
    request = network_pb2.DeleteSiteRequest(name=f"sites/{SITE}")
    assert await reason_of(network.call(f"{NETWORK}DeleteSite", request)) == "STATE_CONFLICT"
    await network.call(f"{NETWORK}RevokeSite", network_pb2.RevokeSiteRequest(name=f"sites/{SITE}"))
    await network.call(f"{NETWORK}DeleteSite", request)
    assert await reason_of(get(network)) == "RESOURCE_NOT_FOUND"
    assert await reason_of(network.call(f"{NETWORK}DeleteSite", request)) == "RESOURCE_NOT_FOUND"


async def test_the_public_site_is_there_and_stays(network: NetworkSite) -> None:
    site = await get(network, "public")
    assert condition(site, "Joined").status == TRUE
    for method, request in (
        ("RevokeSite", network_pb2.RevokeSiteRequest(name="sites/public")),
        ("DeleteSite", network_pb2.DeleteSiteRequest(name="sites/public")),
    ):
        assert await reason_of(network.call(f"{NETWORK}{method}", request)) == "STATE_CONFLICT"


async def test_sites_come_in_pages_by_id(network_on_each: NetworkSite) -> None:
    network = network_on_each
    for site in ("c", "a", "b"):
        await network.join(site, state="INVITED")
    names: list[str] = []
    token = ""
    while True:
        request = network_pb2.ListSitesRequest(page_size=2, page_token=token)
        page = await network.call(f"{NETWORK}ListSites", request)
        names += [site.name for site in page.sites]
        token = page.next_page_token
        if not token:
            break
    assert names == ["sites/a", "sites/b", "sites/c", "sites/public"]
    bad = network_pb2.ListSitesRequest(page_token="nonsense")
    assert await reason_of(network.call(f"{NETWORK}ListSites", bad)) == "INVALID_FIELD"


async def test_a_priority_reaches_the_egress_and_an_old_etag_is_refused(network_on_each: NetworkSite) -> None:
    network = network_on_each
    await network.join(SITE)
    etag = (await get(network)).etag
    request = network_pb2.UpdateSiteRequest(site=site_pb2.Site(name=f"sites/{SITE}", priority=3, etag=etag))
    request.site.display_name = "not in the mask"
    request.update_mask.paths.append("priority")
    response = await network.call(f"{NETWORK}UpdateSite", request)
    assert (response.site.priority, response.site.display_name) == (3, "")
    state = await network.publisher.until(lambda state: any(one.priority == 3 for one in state.replicas))
    assert state.replicas[0].site == SITE
    assert await reason_of(network.call(f"{NETWORK}UpdateSite", request)) == "ETAG_MISMATCH"


@pytest.mark.parametrize(
    ("site", "paths"),
    [
        (site_pb2.Site(name=f"sites/{SITE}", priority=10), ["priority"]),
        (site_pb2.Site(name=f"sites/{SITE}", priority=-1), ["priority"]),
        (site_pb2.Site(name=f"sites/{SITE}", display_name="x" * 201), ["display_name"]),
        (site_pb2.Site(name=f"sites/{SITE}", display_name="a\nb"), ["display_name"]),
        (site_pb2.Site(name=f"sites/{SITE}"), []),
        (site_pb2.Site(name=f"sites/{SITE}"), ["state"]),
        (site_pb2.Site(name="sites/UPPER"), ["priority"]),
        (site_pb2.Site(name="hospital-a"), ["priority"]),
    ],
)
async def test_what_can_not_be_set_is_refused_by_its_field(
    network: NetworkSite, site: site_pb2.Site, paths: list[str]
) -> None:
    await network.join(SITE)
    request = network_pb2.UpdateSiteRequest(site=site)
    request.update_mask.paths.extend(paths)
    assert await reason_of(network.call(f"{NETWORK}UpdateSite", request)) == "INVALID_FIELD"


async def test_a_revoked_site_can_not_be_changed(network: NetworkSite) -> None:
    await network.join(SITE)
    await network.call(f"{NETWORK}RevokeSite", network_pb2.RevokeSiteRequest(name=f"sites/{SITE}"))
    request = network_pb2.UpdateSiteRequest(site=site_pb2.Site(name=f"sites/{SITE}", priority=1))
    request.update_mask.paths.append("priority")
    assert await reason_of(network.call(f"{NETWORK}UpdateSite", request)) == "STATE_CONFLICT"


async def test_watching_shows_each_change_but_not_faster_than_ten_a_second(network: NetworkSite) -> None:
    call = network.call(f"{NETWORK}WatchNetwork", network_pb2.WatchNetworkRequest())
    first = await call.read()
    assert [site.name for site in first.sites] == ["sites/public"]
    began, seen = time.monotonic(), 0
    for number in range(30):
        await network.join(f"site-{number}", state="INVITED")
    while True:
        response = await call.read()
        seen += 1
        if len(response.sites) == 31:
            break
    assert seen <= 10 * (time.monotonic() - began) + 2
    call.cancel()


async def test_watchers_are_told_when_the_service_shuts_down(network: NetworkSite) -> None:
    calls = [
        network.call(f"{NETWORK}WatchNetwork", network_pb2.WatchNetworkRequest()),
        network.call(f"{NETWORK}WatchReplicas", network_pb2.WatchReplicasRequest(), "chat"),
    ]
    for call in calls:
        await call.read()
    stopping = asyncio.ensure_future(network.server.stop(5.0))
    began = time.monotonic()
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            while True:
                if await call.read() == grpc.aio.EOF:
                    raise AssertionError("it ended as if all had been told")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await stopping
    assert time.monotonic() - began < 4.0


@pytest.mark.parametrize("caller", ["chat", "tenant"])
async def test_replicas_are_told_to_those_who_call_them(network: NetworkSite, caller: str) -> None:
    call = network.call(f"{NETWORK}WatchReplicas", network_pb2.WatchReplicasRequest(), caller)
    first = await call.read()
    assert list(first.replicas) == []
    await network.join(SITE, models=2)
    response = await call.read()
    assert [(one.routing_key, one.site) for one in response.replicas] == [
        (f"{SITE}.model-0", f"sites/{SITE}"),
        (f"{SITE}.model-1", f"sites/{SITE}"),
    ]
    call.cancel()


async def test_others_are_not_told_of_replicas(network: NetworkSite) -> None:
    for caller in ("edge", "egress"):
        call = network.call(f"{NETWORK}WatchReplicas", network_pb2.WatchReplicasRequest(), caller)
        assert await reason_of(call.read()) == "METHOD_DENIED"


async def test_a_key_without_the_scope_sees_nothing(network: NetworkSite) -> None:
    call = network.call(f"{NETWORK}ListSites", network_pb2.ListSitesRequest(), scopes=("tenant.admin",))
    assert await reason_of(call) == "SCOPE_MISSING"


async def test_grants_are_the_grants_servicer_s(network: NetworkSite) -> None:
    for method, request, caller in (
        ("CreateLinkGrant", network_pb2.CreateLinkGrantRequest(), "edge"),
        ("ListLinkGrants", network_pb2.ListLinkGrantsRequest(), "edge"),
        ("RevokeLinkGrant", network_pb2.RevokeLinkGrantRequest(), "edge"),
        ("RedeemLinkGrant", network_pb2.RedeemLinkGrantRequest(), "egress"),
    ):
        assert await reason_of(network.call(f"{NETWORK}{method}", request, caller)) == "RESOURCE_NOT_FOUND", method


async def test_lists_of_a_site_that_is_not_there_say_so(network: NetworkSite) -> None:
    for method, request in (
        ("ListLinks", network_pb2.ListLinksRequest(parent="sites/nobody")),
        ("ListConnectors", network_pb2.ListConnectorsRequest(parent="sites/nobody")),
        ("RotateCertificates", network_pb2.RotateCertificatesRequest(name="sites/nobody")),
    ):
        assert await reason_of(network.call(f"{NETWORK}{method}", request)) == "RESOURCE_NOT_FOUND", method


async def test_what_was_known_is_known_after_a_restart(network: NetworkSite) -> None:
    network.egress.change(SITE, FakeMember(sequence=7))
    await network.join(SITE)
    await network.until_linked(SITE)
    await network.until(lambda: _is_operational(network), "its link carries calls")
    seen = (await get(network)).last_seen_time
    writes = network.network.writes
    await network.stop()
    network.egress.change(SITE, None)
    await network.start()
    await network.until(lambda: _is_operational(network), "it was looked at")
    site = await get(network)
    assert site.trust_sequence == 7
    assert abs(site.last_seen_time.ToDatetime() - seen.ToDatetime()) < timedelta(seconds=20)
    assert network.network.writes == writes, "a restart writes nothing anew"


def _is_operational(network: NetworkSite) -> bool:
    link = network.parts.reconciler.views.value.links.get(SITE)
    return link is not None and link.operational_since is not None


async def test_trust_travels_to_the_site_that_it_is_for(network: NetworkSite) -> None:
    member = FakeMember(sequence=3)
    network.egress.change(SITE, member)
    assert await network.parts.channel.apply_trust(SITE, "bundle", ()) == 3
    assert member.applied == [("bundle", 0)]
    (request,) = await network.parts.channel.create_certificate_requests(SITE)
    assert (request.service, request.csr) == ("gateway", b"csr")
