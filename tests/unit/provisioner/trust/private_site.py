"""A private site that has joined a public one in memory, with its files on the disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import TrustBundle, TrustContent, authorities_pem, sign_bundle
from redoma_provisioner.trust.csr import CertificateRequest, checked_requests
from redoma_provisioner.trust.keeper import TrustKeeper
from redoma_provisioner.trust.keys import PendingKey, make_key
from redoma_provisioner.trust.membership_files import MembershipFiles, MembershipSet, ServiceIdentity
from redoma_provisioner.trust.names import SERVICES
from tests.fakes.trust_parties import MovedClock

SITE = "hospital-a"
LINK_ADDRESS = "join.example:8443"


def signed_bundle(authority: Authority, sequence: int, site: str = SITE, revoked: Sequence[str] = ()) -> str:
    """Gives a trust bundle as the public site signs it."""
    content = TrustContent(authorities_pem(authority), {"keys": [{"kid": f"key {sequence}"}]}, tuple(revoked))
    return sign_bundle(authority, TrustBundle(sequence, site, content, MovedClock()()))


def chains_for(authority: Authority, requests: Sequence[CertificateRequest], site: str = SITE) -> dict[str, str]:
    """Gives the certificates for requests, by service."""
    return {key.service: authority.issue(site, key).chain for key in checked_requests("it", requests)}


def joined_set(authority: Authority, sequence: int = 1, keys: Sequence[PendingKey] = ()) -> MembershipSet:
    """Gives what a site keeps once it has joined."""
    keys = keys or [make_key(service) for service in SERVICES]
    chains = chains_for(authority, [key.request for key in keys])
    return MembershipSet(
        "".join(authorities_pem(authority)),
        {"keys": [{"kid": f"key {sequence}"}]},
        signed_bundle(authority, sequence),
        {key.service: ServiceIdentity(chains[key.service].encode(), key.key) for key in keys},
        DriverKind.EMBEDDED,
        LINK_ADDRESS,
    )


@dataclass
class PrivateSite:
    """The files of a site, and what keeps them."""

    folder: Path
    authority: Authority
    clock: MovedClock = field(default_factory=MovedClock)

    def __post_init__(self) -> None:
        self.files = MembershipFiles(self.folder)
        self.files.prepare()
        self.files.write(joined_set(self.authority))
        self.keeper = self.open()

    def open(self) -> TrustKeeper:
        """Gives a keeper, as a restarted process has it."""
        return TrustKeeper(self.files, self.clock)

    def later(self, days: float) -> None:
        """Moves the clock."""
        self.clock.moved += timedelta(days=days)
