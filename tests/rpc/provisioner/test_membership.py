"""A private site's provisioner as the public one meets it."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from redoma.provisioner.v1 import condition_pb2, membership_pb2, membership_pb2_grpc, network_pb2, site_pb2
from redoma_kit.channel import open_channel
from redoma_kit.errors import Failure, failure_from_status
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.network.condition import Condition
from redoma_provisioner.policy import private_policy
from redoma_provisioner.servicers.membership import MembershipServicer
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.membership import Membership, MembershipState
from redoma_provisioner.trust.names import SERVICES
from tests.conftest import TestPki
from tests.fakes.trust_parties import MovedClock, identity_files, make_authority
from tests.unit.provisioner.trust.private_site import SITE, PrivateSite, chains_for, signed_bundle

BOUND_S = 30
WatchRequest = membership_pb2.WatchMembershipRequest
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()


class Member:
    """A private site's service, and its callers."""

    def __init__(self, pki: TestPki, folder: Path) -> None:
        self.folder = folder
        self.clock = MovedClock()
        self.authority = make_authority(folder / "authority", self.clock)
        self.site = PrivateSite(folder / "membership", self.authority, self.clock)
        self.standing_changed = asyncio.Event()
        self.state = MembershipState(Membership(self.site.keeper.kept), self.clock, self.standing_changed.set)
        settings = ProvisionerSettings(
            role="private",
            listen="127.0.0.1:0",
            tls=identity_files(self.authority, folder / "own", SITE, "provisioner"),
            jwks_file=pki.jwks_file,
            database_url="sqlite+aiosqlite:////tmp/unused.db",
        )
        telemetry = Telemetry("provisioner", settings.metrics, settings.tracing)
        verifier = IdentityVerifier(settings.jwks_file, "provisioner")
        self.server = GrpcServer(settings, private_policy(SITE), ERRORS, verifier, telemetry, LOG)
        servicer = MembershipServicer(self.state, self.site.keeper, self.clock, "0.1.0", self.server.drain)
        self.server.add(
            lambda server: membership_pb2_grpc.add_MembershipServiceServicer_to_server(servicer, server),
            "redoma.provisioner.v1.MembershipService",
        )
        self.channels: list[grpc.aio.Channel] = []

    def stub(
        self, site: str = "public", service: str = "provisioner"
    ) -> "membership_pb2_grpc.MembershipServiceAsyncStub":
        """Gives a stub that shows the certificate of a service."""
        tls = identity_files(self.authority, self.folder / f"{site}-{service}", site, service)
        upstream = UpstreamSettings(target=f"127.0.0.1:{self.server.port}", server_name=f"provisioner.{SITE}.redoma")
        self.channels.append(open_channel(upstream, tls, 8 << 20))
        return membership_pb2_grpc.MembershipServiceStub(self.channels[-1])

    async def requests(self) -> list[network_pb2.CertificateRequest]:
        """Asks for certificate requests."""
        request = membership_pb2.CreateCertificateRequestsRequest()
        return list((await self.stub().CreateCertificateRequests(request, timeout=BOUND_S)).certificate_requests)

    async def apply(self, bundle: str, chains: dict[str, str] | None = None) -> int:
        """Gives a bundle and certificates."""
        issued = [
            network_pb2.IssuedCertificate(service=service, certificate_chain=chain)
            for service, chain in (chains or {}).items()
        ]
        request = membership_pb2.ApplyTrustRequest(trust_bundle=bundle, certificates=issued)
        return (await self.stub().ApplyTrust(request, timeout=BOUND_S)).sequence


@pytest.fixture
async def member(pki: TestPki, tmp_path: Path) -> AsyncIterator[Member]:
    """A running private site."""
    member = Member(pki, tmp_path)
    await member.server.start()
    yield member
    for channel in member.channels:
        await channel.close()
    await member.server.stop(0.0)


async def _failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    failure = failure_from_status(raised.value)
    assert failure is not None, raised.value
    return failure


async def _read(stream: Any) -> membership_pb2.WatchMembershipResponse:
    response = await stream.read()
    assert isinstance(response, membership_pb2.WatchMembershipResponse)
    return response


async def test_it_tells_how_it_is_at_once_and_at_each_change(member: Member) -> None:
    async with asyncio.timeout(BOUND_S):
        stream = member.stub().WatchMembership(WatchRequest())
        first = await _read(stream)
        assert (first.trust_sequence, first.version, list(first.connectors)) == (1, "0.1.0", [])
        assert first.HasField("clock") and first.HasField("certificate_expire_time")
        connector = ExposedConnector(f"{SITE}.model-0", "model", "unix:model.sock", "acme")
        condition = Condition("Operational", False, "NoTunnels", "No tunnel is open.")
        member.state.set(
            Membership(member.site.keeper.kept, (connector,), (condition,), {f"{SITE}.model-0": (condition,)})
        )
        second = await _read(stream)
        (told,) = second.connectors
        assert (told.routing_key, told.service, told.tenant) == (
            f"{SITE}.model-0",
            site_pb2.Connector.SERVICE_MODEL,
            "tenants/acme",
        )
        assert told.conditions[0].status == second.conditions[0].status == condition_pb2.Condition.STATUS_FALSE
        stream.cancel()


async def test_it_is_linked_while_the_public_site_listens(member: Member) -> None:
    async with asyncio.timeout(BOUND_S):
        stream = member.stub().WatchMembership(WatchRequest())
        await _read(stream)
        assert member.state.linked_since is not None
        member.standing_changed.clear()
        stream.cancel()
        await member.standing_changed.wait()
        assert member.state.linked_since is None


async def test_a_listener_hinders_no_shutdown(member: Member) -> None:
    async with asyncio.timeout(BOUND_S):
        stream = member.stub().WatchMembership(WatchRequest())
        await _read(stream)
        stopping = asyncio.ensure_future(member.server.stop(600.0))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            while await _read(stream):
                continue
        failure = failure_from_status(raised.value)
        assert failure is not None and failure.reason == "SHUTTING_DOWN"
        await stopping


async def test_new_keys_stay_and_their_certificates_are_kept_and_told(member: Member) -> None:
    async with asyncio.timeout(BOUND_S):
        stream = member.stub().WatchMembership(WatchRequest())
        await _read(stream)
        requests = await member.requests()
        assert [one.service for one in requests] == list(SERVICES)
        assert requests == await member.requests()
        assert b"PRIVATE" not in b"".join(one.csr for one in requests)
        chains = chains_for(member.authority, [CertificateRequest(one.service, one.csr) for one in requests])
        assert await member.apply(signed_bundle(member.authority, 2), chains) == 2
        told = await _read(stream)
        assert told.trust_sequence == 2
        assert told.certificate_expire_time.ToDatetime() == member.site.keeper.kept.certificate_expire_time.replace(
            tzinfo=None
        )
        assert (member.site.files.current / "model" / "tls.crt").read_text() == chains["model"]
        assert await member.apply(signed_bundle(member.authority, 2), chains) == 2


async def test_what_can_not_be_believed_is_refused_by_field(member: Member, tmp_path: Path) -> None:
    stranger = make_authority(tmp_path / "stranger", member.clock)
    forged = await _failure(member.apply(signed_bundle(stranger, 2)))
    assert (forged.reason, forged.metadata["field"]) == ("INVALID_FIELD", "trust_bundle")
    requests = [CertificateRequest(one.service, one.csr) for one in await member.requests()]
    chains = chains_for(stranger, requests)
    strange = await _failure(member.apply(signed_bundle(member.authority, 2), chains))
    assert (strange.reason, strange.metadata["field"]) == ("INVALID_FIELD", "certificates")
    unknown = await _failure(member.apply(signed_bundle(member.authority, 2), {"edge": "x"}))
    assert unknown.metadata["field"] == "certificates[0].service"
    assert await member.apply(signed_bundle(member.authority, 5)) == 5
    older = await _failure(member.apply(signed_bundle(member.authority, 4)))
    assert (older.code, older.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")


async def test_two_who_bring_certificates_at_once_leave_one_whole_set(member: Member) -> None:
    requests = [CertificateRequest(one.service, one.csr) for one in await member.requests()]
    sets = [chains_for(member.authority, requests) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(member.apply(signed_bundle(member.authority, 2 + number), one) for number, one in enumerate(sets)),
        return_exceptions=True,
    )
    assert any(isinstance(outcome, int) for outcome in outcomes)
    kept = member.site.files.read()
    assert kept is not None
    assert {service: identity.chain.decode() for service, identity in kept.identities.items()} in sets


@pytest.mark.parametrize(("site", "service"), [("public", "chat"), ("public", "egress"), ("hospital-b", "provisioner")])
@pytest.mark.parametrize("method", ["WatchMembership", "CreateCertificateRequests", "ApplyTrust"])
async def test_it_is_for_the_public_provisioner_alone(member: Member, site: str, service: str, method: str) -> None:
    call = getattr(member.stub(site, service), method)(getattr(membership_pb2, f"{method}Request")(), timeout=BOUND_S)
    outcome = call.read() if method == "WatchMembership" else call
    assert (await _failure(outcome)).reason == "METHOD_DENIED"


async def test_a_disk_that_is_full_is_told_to_who_renews_and_nothing_is_lost(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = member.site.keeper.kept
    bundle = signed_bundle(member.authority, 2)
    with monkeypatch.context() as patch:
        patch.setattr("redoma_provisioner.trust.membership_files.write_new", full)
        failures = [await _failure(member.apply(bundle)), await _failure(member.requests())]
    for failure in failures:
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
        assert "No space left on device" in failure.message
    assert member.site.keeper.kept == before
    assert await member.apply(bundle) == 2
