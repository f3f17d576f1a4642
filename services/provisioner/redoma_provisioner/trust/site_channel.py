"""The seam to the provisioners of private sites, as trust needs it."""

from collections.abc import Sequence
from typing import Protocol

from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.record import IssuedCertificate


class SiteChannel(Protocol):
    """What reaches private sites. Both methods raise SiteUnreachable, or StateConflict where the site would not."""

    async def create_certificate_requests(self, site: str) -> Sequence[CertificateRequest]:
        """Has a site make new keys, and gives the requests for their certificates."""
        ...

    async def apply_trust(self, site: str, trust_bundle: str, certificates: Sequence[IssuedCertificate]) -> int:
        """Gives a site its trust bundle and certificates, and returns the number of the bundle that it keeps then."""
        ...
