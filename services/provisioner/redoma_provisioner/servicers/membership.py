"""MembershipService on the wire: what a private site's provisioner offers to the public one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from redoma.provisioner.v1 import membership_pb2, membership_pb2_grpc, network_pb2, site_pb2
from redoma_kit.errors import InvalidField
from redoma_kit.interceptors.drain import Drain
from redoma_provisioner.errors import StateConflict
from redoma_provisioner.network.condition import Condition
from redoma_provisioner.servicers.connectors import connector_message
from redoma_provisioner.servicers.network_forms import condition_messages
from redoma_provisioner.servicers.times import timestamp
from redoma_provisioner.servicers.watching import until_drained
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.keeper import TrustKeeper
from redoma_provisioner.trust.membership import Membership, MembershipState
from redoma_provisioner.trust.names import SERVICES

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

T = TypeVar("T")


class MembershipServicer(membership_pb2_grpc.MembershipServiceServicer):
    """Tells the public site of this one, and takes certificates and trust bundles from it."""

    def __init__(
        self,
        state: MembershipState,
        keeper: TrustKeeper,
        now: Callable[[], datetime],
        version: str,
        drain: Drain,
    ) -> None:
        self._state = state
        self._keeper = keeper
        self._now = now
        self._version = version
        self._drain = drain

    async def WatchMembership(
        self, request: membership_pb2.WatchMembershipRequest, context: "Context"
    ) -> AsyncIterator[membership_pb2.WatchMembershipResponse]:
        """Sends how the site is."""
        async with aclosing(until_drained(self._state.watch(), self._drain)) as memberships:
            async for membership in memberships:
                yield self._response(membership)

    async def CreateCertificateRequests(
        self, request: membership_pb2.CreateCertificateRequestsRequest, context: "Context"
    ) -> membership_pb2.CreateCertificateRequestsResponse:
        """Makes new keys."""
        requests = await _on_disk(self._keeper.requests)
        return membership_pb2.CreateCertificateRequestsResponse(
            certificate_requests=[network_pb2.CertificateRequest(service=one.service, csr=one.csr) for one in requests]
        )

    async def ApplyTrust(
        self, request: membership_pb2.ApplyTrustRequest, context: "Context"
    ) -> membership_pb2.ApplyTrustResponse:
        """Takes a trust bundle and certificates."""
        loop, chains = asyncio.get_running_loop(), _chains(request.certificates)

        def apply() -> int:
            sequence = self._keeper.apply(request.trust_bundle, chains)
            # Also when the caller is gone by now.
            loop.call_soon_threadsafe(self._tell)
            return sequence

        sequence = await _on_disk(apply)
        return membership_pb2.ApplyTrustResponse(sequence=sequence)

    def _tell(self) -> None:
        self._state.set(replace(self._state.membership, kept=self._keeper.kept))

    def _response(self, membership: Membership) -> membership_pb2.WatchMembershipResponse:
        told = membership.connector_conditions
        return membership_pb2.WatchMembershipResponse(
            connectors=[_connector(one, told.get(one.routing_key, ())) for one in membership.connectors],
            conditions=condition_messages(membership.conditions),
            trust_sequence=membership.kept.sequence,
            certificate_expire_time=timestamp(membership.kept.certificate_expire_time),
            clock=timestamp(self._now()),
            version=self._version,
        )


async def _on_disk(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StateConflict(
            f"Its membership can't be written ({error.strerror}); mend the disk there, or make room, and try again.",
            {"state": "DISK_FAILED"},
        ) from error


def _chains(certificates: Iterable[network_pb2.IssuedCertificate]) -> Mapping[str, str]:
    chains: dict[str, str] = {}
    for index, certificate in enumerate(certificates):
        if certificate.service not in SERVICES or certificate.service in chains:
            raise InvalidField(f"certificates[{index}].service", f"must be one of {', '.join(SERVICES)}, each once.")
        chains[certificate.service] = certificate.certificate_chain
    return chains


def _connector(connector: ExposedConnector, conditions: Iterable[Condition]) -> site_pb2.Connector:
    message = connector_message(connector)
    message.conditions.extend(condition_messages(conditions))
    return message
