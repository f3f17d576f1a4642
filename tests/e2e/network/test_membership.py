"""Sites that are revoked, renewed, used in each other's place, and that come and go."""

import asyncio
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from redoma.provisioner.v1 import network_pb2, operation_pb2, site_pb2
from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.link_probe import LinkProbe
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels
from redoma_provisioner.settings import ProxySettings
from tests.e2e.network.conftest import GUEST, Van
from tests.e2e.network.namespaces import PUBLIC
from tests.e2e.network.processes import until
from tests.e2e.network.sites import VAN_PORT, PrivateSite
from tests.e2e.network.streams import ask, close_streams, open_streams, until_answered

ADDRESS = f"{PUBLIC}:{VAN_PORT}"
CUT_S = 2.0
JOINS = 10
PREFERRED, SPARE = 0, 5


def tunnels(van: Van) -> EgressTunnels:
    """Counts the tunnels of the egress."""
    return EgressTunnels(EnvoyAdmin(van.public.egress_admin))


async def test_certificates_are_renewed_under_running_streams(
    van: Van, calls: grpc.aio.Channel, tmp_path: Path
) -> None:
    """No stream breaks, new calls get through all the while, and the old certificate is refused afterwards."""
    former = ProxySettings.model_validate(
        {name: shutil.copy(file, tmp_path) for name, file in van.a.identity("gateway").model_dump().items()}
    )
    streams = await open_streams(calls, van.pki, 20, van.a.model_key)
    try:
        request = network_pb2.RotateCertificatesRequest(name=f"sites/{van.a.name}")
        answer = await asyncio.to_thread(van.administrator.call, "RotateCertificates", request)
        assert isinstance(answer, network_pb2.RotateCertificatesResponse)
        while not (operation := await asyncio.to_thread(_operation, van, answer.operation.name)).HasField("end_time"):
            assert (await ask(calls, van.pki, van.a.model_key)).ok
        assert operation.state == operation_pb2.Operation.STATE_SUCCEEDED, operation
        assert van.a.identity("gateway").cert_file.read_bytes() != former.cert_file.read_bytes()
        problem = await _refusal(van, former)
        assert problem == "CertificateRefused"
        await asyncio.gather(*(stream.grows() for stream in streams))
        assert (await ask(calls, van.pki, van.a.model_key)).ok
    finally:
        await close_streams(streams)
    until(lambda: van.administrator.is_linked(van.a.name), "linked with the new certificates")


async def test_the_other_site_takes_over_and_hands_back(van: Van, calls: grpc.aio.Channel) -> None:
    """The site with the lower number is used as long as it answers."""
    _prioritise(van, van.b, SPARE)
    try:
        await _answered_by(van, calls, van.a)
        van.a.gateway.kill()
        began = time.monotonic()
        took_over = await _answered_by(van, calls, van.b)
        assert took_over - began <= 3.0
        assert all([(await ask(calls, van.pki)).ok for _ in range(20)])
        van.a.gateway.start()
        await _answered_by(van, calls, van.a)
        assert all([(await ask(calls, van.pki)).ok for _ in range(20)])
    finally:
        _prioritise(van, van.b, PREFERRED)


async def test_a_revoked_site_is_cut_and_the_other_is_not(van: Van, calls: grpc.aio.Channel) -> None:
    """Its streams end and its tunnels close within two seconds, and it can't come back with what it has."""
    streams = await open_streams(calls, van.pki, 10, van.b.model_key)
    others = await open_streams(calls, van.pki, 5, van.a.model_key)
    identity = ProxySettings.model_validate(van.b.identity("gateway").model_dump())
    try:
        began = time.monotonic()
        await asyncio.to_thread(
            van.administrator.call, "RevokeSite", network_pb2.RevokeSiteRequest(name=f"sites/{van.b.name}")
        )
        ends = [await stream.ends(CUT_S + 1) for stream in streams]
        assert max(ends) - began <= CUT_S
        assert {stream.code for stream in streams} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        while van.b.name in (await tunnels(van).by_site() or {}):
            assert time.monotonic() - began < CUT_S, await tunnels(van).by_site()
        refused = await ask(calls, van.pki, van.b.model_key)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert await _refusal(van, identity, van.b) in ("NotAdmitted", "CertificateRefused")
        await asyncio.gather(*(stream.grows() for stream in others))
        assert (await ask(calls, van.pki, van.a.model_key)).ok
    finally:
        await close_streams(streams + others)
        # The others want it back.
        van.administrator.call("DeleteSite", network_pb2.DeleteSiteRequest(name=f"sites/{van.b.name}"))
        van.b.forget()
        van.admit(van.b)
    await until_answered(calls, van.pki, van.b.model_key)


@pytest.mark.timeout(600)
async def test_ten_joins_and_leaves_leave_nothing(van: Van, calls: grpc.aio.Channel) -> None:
    """A site that came and went left no process, no tunnel, no open file, no row and no resource."""
    guest = van.sites[GUEST]
    before: tuple[object, ...] = ()
    open_files: tuple[int, ...] = ()
    for number in range(JOINS):
        await asyncio.to_thread(van.admit, guest)
        name = f"sites/{GUEST}"
        await asyncio.to_thread(van.administrator.call, "RevokeSite", network_pb2.RevokeSiteRequest(name=name))
        await _has_no_tunnel(van, GUEST)
        await asyncio.to_thread(van.administrator.call, "DeleteSite", network_pb2.DeleteSiteRequest(name=name))
        guest.forget()
        if number == 0:
            before, open_files = await _traces(van), _open_files(van)
    await _settles(van, before)
    # Connections come and go; each join would have left one more.
    assert all(now < then + JOINS // 2 for now, then in zip(_open_files(van), open_files, strict=True))
    assert (await ask(calls, van.pki, van.a.model_key)).ok


async def _has_no_tunnel(van: Van, site: str) -> None:
    end = time.monotonic() + 10
    while site in (await tunnels(van).by_site() or {}):
        assert time.monotonic() < end, f"{site} has tunnels"
        await asyncio.sleep(0.05)


async def _settles(van: Van, before: tuple[object, ...]) -> None:
    end = time.monotonic() + 15
    while (now := await _traces(van)) != before:
        assert time.monotonic() < end, f"{now} is not as after the first: {before}"
        await asyncio.sleep(0.1)


async def _traces(van: Van) -> tuple[object, ...]:
    """Gives what a leak would show in."""
    admin = EnvoyAdmin(van.public.egress_admin)
    with sqlite3.connect(van.public.database) as database:
        sites = database.execute("SELECT id FROM sites ORDER BY id").fetchall()
        connectors = database.execute("SELECT routing_key FROM connectors ORDER BY routing_key").fetchall()
    connections = ["ss", "-H", "-t", "state", "established"]
    return (
        sites,
        connectors,
        dict(await admin.stats(r"^listener_manager\.total_listeners_active$|^cluster_manager\.active_clusters$")),
        await tunnels(van).by_site(),
        van.network.run(van.network.site(GUEST), *connections).stdout,
        sorted(file.name for file in van.public.folder.iterdir() if "-" not in file.suffix),
    )


def _open_files(van: Van) -> tuple[int, ...]:
    return van.public.egress.descriptors(), van.public.provisioner.descriptors()


def _operation(van: Van, name: str) -> operation_pb2.Operation:
    request = operation_pb2.GetOperationRequest(name=name)
    answer = van.administrator.call("GetOperation", request, "OperationService")
    assert isinstance(answer, operation_pb2.GetOperationResponse)
    return answer.operation


async def _refusal(van: Van, identity: ProxySettings, site: PrivateSite | None = None) -> str:
    """Dials as a gateway with that identity does, and says why it gets no tunnel."""
    probe = LinkProbe(identity, (site or van.a).name, lambda: datetime.now(UTC))
    end = time.monotonic() + 5
    # The operation ends when the egress was told, which takes a moment to hear.
    while (problem := await probe.look(ADDRESS)).reason == "NotDialled":
        assert time.monotonic() < end
    return problem.reason


async def _answered_by(van: Van, calls: grpc.aio.Channel, site: PrivateSite) -> float:
    """Asks whoever answers until it is that site's model ten times in a row, and gives when the first of them was."""
    row, first, end = 0, 0.0, time.monotonic() + 20
    while row < 10:
        answer = await ask(calls, van.pki, bound_s=1.0)
        if answer.model == f"model-of-{site.name}":
            first = first if row else answer.at
            row += 1
        else:
            row = 0
        assert time.monotonic() < end, f"{site.name} does not answer"
        await asyncio.sleep(0.02)
    return first


def _prioritise(van: Van, site: PrivateSite, priority: int) -> None:
    request = network_pb2.UpdateSiteRequest(site=site_pb2.Site(name=f"sites/{site.name}", priority=priority))
    request.update_mask.paths.append("priority")
    van.administrator.call("UpdateSite", request)
