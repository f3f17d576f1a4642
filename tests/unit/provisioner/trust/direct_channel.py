"""What reaches a public site without a network between."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from redoma_kit.errors import DomainError, failure_of
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.trust import join_failure
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.join_failure import JoinFailed
from redoma_provisioner.trust.joining import Meeting
from redoma_provisioner.trust.redemption import Admission, JoinRequest
from tests.fakes.trust_parties import SiteKeys
from tests.unit.provisioner.trust.joinable import JoinableSite
from tests.unit.provisioner.trust.private_site import chains_for


def _untouched(admission: Admission) -> Admission:
    return admission


@dataclass
class DirectChannel:
    """Reaches the public site without a network; a test spoils what comes of it."""

    public: JoinableSite
    moved_date: timedelta = timedelta()
    authority: Authority | None = None
    failure: JoinFailed | None = None
    spoil: Callable[[Admission], Admission] = _untouched
    asked: list[JoinRequest] = field(default_factory=list)

    async def meet(self, address: str) -> Meeting:
        """See JoinChannel."""
        if self.failure is not None:
            raise self.failure
        chain = chains_for(self.public.authority, SiteKeys().requests(["gateway"]), "public")["gateway"]
        server = x509.load_pem_x509_certificate(chain.encode())
        authority = self.authority or self.public.authority
        return Meeting([authority.certificate], server, self.public.clock() + self.moved_date)

    async def redeem(self, address: str, authority: bytes, request: JoinRequest) -> Admission:
        """See JoinChannel."""
        self.asked.append(request)
        assert authority == self.public.authority.certificate.public_bytes(serialization.Encoding.PEM)
        try:
            return self.spoil(await self.public.redeemer.redeem(request, "192.0.2.1"))
        except DomainError as error:
            failure = failure_of(error, ERRORS)
            raise join_failure.refused(failure.reason, failure.message) from None
