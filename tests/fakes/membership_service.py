"""An egress in miniature: private sites' provisioners behind one address, told apart by `redoma-replica`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from redoma.provisioner.v1 import condition_pb2, membership_pb2, network_pb2, site_pb2
from redoma.provisioner.v1.membership_pb2_grpc import (
    MembershipServiceServicer,
    add_MembershipServiceServicer_to_server,
)
from redoma_kit.settings import TlsSettings
from tests.fakes.model_service import SERVER_OPTIONS
from tests.fakes.server_credentials import server_credentials

MODEL, PROVISIONER = site_pb2.Connector.SERVICE_MODEL, site_pb2.Connector.SERVICE_PROVISIONER


@dataclass(slots=True)
class FakeMember:
    """A private site that answers.

    Attributes:
        models: Its replicas of models.
        skew: How far its clock is ahead.
        sequence: Number of the trust bundle that it keeps.
        expire_time: When the first of its certificates expires.
        refusal: What it says to every change of trust; empty: it takes them.
        applied: Bundles that it was given, with how many certificates.
    """

    models: int = 1
    skew: timedelta = timedelta()
    sequence: int = 1
    expire_time: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(days=30))
    refusal: str = ""
    applied: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class FakeEgress(MembershipServiceServicer):
    """The members by site; who is not among them does not answer."""

    members: dict[str, FakeMember] = field(default_factory=dict)
    port: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: grpc.aio.Server | None = None

    async def start(self, tls: TlsSettings) -> None:
        """Begins to answer."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_MembershipServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port("127.0.0.1:0", server_credentials(tls))
        await self._server.start()

    async def stop(self) -> None:
        """Ends."""
        if self._server is not None:
            await self._server.stop(None)

    def change(self, site: str, member: FakeMember | None) -> None:
        """Has a site answer so, or not any more."""
        if member is None:
            self.members.pop(site, None)
        else:
            self.members[site] = member
        self._changed.set()
        self._changed = asyncio.Event()

    async def WatchMembership(
        self, request: membership_pb2.WatchMembershipRequest, context: Any
    ) -> AsyncIterator[membership_pb2.WatchMembershipResponse]:
        """Tells how a site is, at once and at each change."""
        site = _site(context)
        while True:
            changed, member = self._changed, await self._member(site, context)
            yield _response(site, member)
            await changed.wait()

    async def CreateCertificateRequests(
        self, request: membership_pb2.CreateCertificateRequestsRequest, context: Any
    ) -> membership_pb2.CreateCertificateRequestsResponse:
        """Gives a request that is none."""
        await self._member(_site(context), context)
        return membership_pb2.CreateCertificateRequestsResponse(
            certificate_requests=[network_pb2.CertificateRequest(service="gateway", csr=b"csr")]
        )

    async def ApplyTrust(
        self, request: membership_pb2.ApplyTrustRequest, context: Any
    ) -> membership_pb2.ApplyTrustResponse:
        """Takes a bundle."""
        member = await self._member(_site(context), context)
        member.applied.append((request.trust_bundle, len(request.certificates)))
        return membership_pb2.ApplyTrustResponse(sequence=member.sequence)

    async def _member(self, site: str, context: Any) -> FakeMember:
        member = self.members.get(site)
        if member is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        assert member is not None
        return member


def _site(context: Any) -> str:
    metadata = dict(context.invocation_metadata())
    site, _, service = str(metadata["redoma-replica"]).partition(".")
    assert service == "provisioner"
    return site


def _response(site: str, member: FakeMember) -> membership_pb2.WatchMembershipResponse:
    names = [*((f"model-{number}", MODEL) for number in range(member.models)), ("provisioner", PROVISIONER)]
    applied = condition_pb2.Condition(type="Configured", status=condition_pb2.Condition.STATUS_TRUE, reason="Applied")
    response = membership_pb2.WatchMembershipResponse(
        connectors=[
            site_pb2.Connector(
                routing_key=f"{site}.{name}", service=service, target=f"unix:{name}.sock", conditions=[applied]
            )
            for name, service in names
        ],
        trust_sequence=member.sequence,
        version="0.1.0",
    )
    response.clock.FromDatetime(datetime.now(UTC) + member.skew)
    response.certificate_expire_time.FromDatetime(member.expire_time)
    return response
