"""A private site's provisioner as the public one sees it, through the egress."""

from collections.abc import AsyncGenerator, Sequence

import grpc

from redoma.provisioner.v1 import membership_pb2, network_pb2
from redoma.provisioner.v1.membership_pb2_grpc import MembershipServiceStub
from redoma_kit.errors import failure_from_status
from redoma_kit.routing import REPLICA_KEY
from redoma_provisioner.errors import SiteRefused, SiteUnreachable
from redoma_provisioner.network.standings import Report
from redoma_provisioner.servicers.connectors import connectors_in
from redoma_provisioner.servicers.network_forms import LONGEST_SENTENCE, LONGEST_WORD, conditions_in, shown, time_in
from redoma_provisioner.trust.connectors import MAX_CONNECTORS
from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.record import IssuedCertificate

CALL_WAIT_S = 20.0
# More bundles than a public site ever signs, and what every database keeps.
MAX_SEQUENCE = 2**31 - 1


class GrpcMembershipChannel:
    """Calls the provisioners of private sites over one channel to the egress."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = MembershipServiceStub(channel)

    async def watch(self, site: str) -> AsyncGenerator[Report, None]:
        """Gives what a site says of itself, as it says it.

        Raises:
            SiteUnreachable: It does not answer, or not any more, or what it says can't be read.
        """
        call = self._stub.WatchMembership(membership_pb2.WatchMembershipRequest(), metadata=_metadata(site))
        try:
            async for response in call:
                yield _report(response)
        except (grpc.aio.AioRpcError, ValueError) as error:
            raise SiteUnreachable(site) from error
        finally:
            call.cancel()
        raise SiteUnreachable(site)

    async def create_certificate_requests(self, site: str) -> tuple[CertificateRequest, ...]:
        """Has a site make new keys, and gives the certificate requests for them.

        Raises:
            SiteUnreachable: It does not answer.
            SiteRefused: It would not.
        """
        request = membership_pb2.CreateCertificateRequestsRequest()
        try:
            response = await self._stub.CreateCertificateRequests(
                request, metadata=_metadata(site), timeout=CALL_WAIT_S
            )
        except grpc.aio.AioRpcError as error:
            raise _failure(site, error) from error
        return tuple(CertificateRequest(one.service, one.csr) for one in response.certificate_requests)

    async def apply_trust(self, site: str, trust_bundle: str, certificates: Sequence[IssuedCertificate]) -> int:
        """Gives a site its trust bundle and certificates, and returns the number of the bundle that it keeps then.

        Raises:
            SiteUnreachable: It does not answer.
            SiteRefused: It would not take them.
        """
        issued = [
            network_pb2.IssuedCertificate(service=one.record.service, certificate_chain=one.chain)
            for one in certificates
        ]
        request = membership_pb2.ApplyTrustRequest(trust_bundle=trust_bundle, certificates=issued)
        try:
            response = await self._stub.ApplyTrust(request, metadata=_metadata(site), timeout=CALL_WAIT_S)
        except grpc.aio.AioRpcError as error:
            raise _failure(site, error) from error
        return response.sequence


def _metadata(site: str) -> tuple[tuple[str, str], ...]:
    return ((REPLICA_KEY, f"{site}.provisioner"),)


def _report(response: membership_pb2.WatchMembershipResponse) -> Report:
    """Gives what a site said; raises ValueError where a number or a time is none."""
    if not 0 <= response.trust_sequence <= MAX_SEQUENCE:
        raise ValueError("trust_sequence")
    # One too many are refused as all are.
    connectors = response.connectors[: MAX_CONNECTORS + 1]
    return Report(
        connectors=connectors_in(connectors),
        conditions=conditions_in(response.conditions),
        connector_conditions={one.routing_key: conditions_in(one.conditions) for one in connectors},
        trust_sequence=response.trust_sequence,
        certificate_expire_time=(
            time_in(response.certificate_expire_time) if response.HasField("certificate_expire_time") else None
        ),
        clock=time_in(response.clock),
        version=shown(response.version, LONGEST_WORD),
    )


def _failure(site: str, error: grpc.aio.AioRpcError) -> SiteUnreachable | SiteRefused:
    failure = failure_from_status(error)
    if failure is None or error.code() is grpc.StatusCode.UNAVAILABLE:
        return SiteUnreachable(site)
    words = shown(failure.message, LONGEST_SENTENCE)
    return SiteRefused(f"The site {site} refused: {words}", {"state": shown(failure.reason, LONGEST_WORD)})
