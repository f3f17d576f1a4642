"""A private site's side of trust: keys that never leave, certificates for them, and the newest trust bundle."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from redoma_kit.errors import InvalidField
from redoma_provisioner.errors import CannotStart, StateConflict
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.bundle import (
    BundleOutdated,
    BundleRefused,
    TrustBundle,
    authority_certificates,
    verify_bundle,
)
from redoma_provisioner.trust.certificate_check import CertificateRefused, check_certificates, read_chain, site_of
from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.keys import PendingKey, make_key, public_der
from redoma_provisioner.trust.membership_files import MembershipBusy, MembershipFiles, MembershipSet, ServiceIdentity
from redoma_provisioner.trust.names import PROVISIONER, SERVICES
from redoma_provisioner.trust.x509_errors import UNREADABLE


@dataclass(frozen=True, slots=True)
class KeptTrust:
    """What a site keeps.

    Attributes:
        site: Its id.
        sequence: The number of its trust bundle.
        certificate_expire_time: When the first of its certificates expires.
        driver: What carries its links.
        link_address: host:port where the embedded driver links.
    """

    site: str
    sequence: int
    certificate_expire_time: datetime
    driver: DriverKind
    link_address: str


class TrustKeeper:
    """Keeps trust in files. Its methods block on the disk, and may be called from any thread."""

    __slots__ = ("_files", "_kept", "_lock", "_now")

    def __init__(self, files: MembershipFiles, now: Callable[[], datetime]) -> None:
        """Reads what is kept.

        Raises:
            CannotStart: Nothing is, or it is damaged.
        """
        self._files = files
        self._now = now
        self._lock = threading.Lock()
        former = self._read()
        try:
            self._kept = kept_of(former)
        except ValueError as error:
            raise CannotStart(f"The set of files in {files.current} is damaged ({error}); join again.") from error

    @property
    def kept(self) -> KeptTrust:
        """What the site keeps."""
        return self._kept

    def requests(self) -> Sequence[CertificateRequest]:
        """Makes new keys and gives the requests for their certificates; the same until those have come.

        Raises:
            StateConflict: The site is joining anew.
            OSError: The disk fails.
        """
        with self._alone():
            pending = self._pending(self._read())
            if not pending:
                pending = tuple(make_key(service) for service in SERVICES)
                self._files.write_pending(pending)
        return [key.request for key in pending]

    def apply(self, text: str, chains: Mapping[str, str]) -> int:
        """Keeps a trust bundle and, where there are any, certificates by service; gives the sequence that is kept.

        Given again, it changes nothing.

        Raises:
            InvalidField: The bundle or a certificate is not what this site can believe.
            StateConflict: The bundle is older than the one that is kept, or the site is joining anew.
            OSError: The disk fails; what was kept still is.
        """
        with self._alone():
            return self._apply(text, chains)

    def _apply(self, text: str, chains: Mapping[str, str]) -> int:
        former = self._read()
        bundle = self._verified(text, former)
        identities = former.identities
        if chains and not _are_kept(chains, former):
            identities = self._identities(chains, bundle, self._pending(former))
        if bundle.sequence > self._kept.sequence or identities is not former.identities:
            content = bundle.content
            fresh = replace(
                former,
                authorities="".join(content.authorities),
                identity_keys=content.identity_keys,
                bundle=text,
                identities=identities,
            )
            self._files.write(fresh)
            self._kept = kept_of(fresh)
        if chains:
            self._files.drop_pending()
        return self._kept.sequence

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._lock, self._files.locked():
                yield
        except MembershipBusy as error:
            raise StateConflict(str(error), {"state": "JOINING"}) from None

    def _verified(self, text: str, former: MembershipSet) -> TrustBundle:
        pinned = x509.load_pem_x509_certificates(former.authorities.encode())
        try:
            return verify_bundle(text, pinned, self._kept.site, self._kept.sequence)
        except BundleRefused as error:
            raise InvalidField("trust_bundle", str(error)) from None
        except BundleOutdated as error:
            raise StateConflict(f"The trust bundle {error}", {"state": "TRUST_NEWER"}) from None

    def _identities(
        self, chains: Mapping[str, str], bundle: TrustBundle, pending: Sequence[PendingKey]
    ) -> Mapping[str, ServiceIdentity]:
        public_keys = {key.service: public_der(key.key) for key in pending}
        authorities = authority_certificates(bundle)
        try:
            check_certificates(chains, public_keys, authorities, self._kept.site, self._now())
        except CertificateRefused as error:
            raise InvalidField("certificates", f"The certificate {error}") from None
        return {key.service: ServiceIdentity(chains[key.service].encode(), key.key) for key in pending}

    def _pending(self, former: MembershipSet) -> Sequence[PendingKey]:
        """Gives the keys that wait; not those that are in force since before a crash."""
        in_force = {identity.key for identity in former.identities.values()}
        pending = self._files.read_pending()
        return () if any(key.key in in_force for key in pending) else pending

    def _read(self) -> MembershipSet:
        try:
            former = self._files.read()
        except (OSError, ValueError) as error:
            raise CannotStart(f"{self._files.current} is damaged ({error}); join again.") from error
        if former is None:
            raise CannotStart(
                f"This site has not joined: {self._files.current} does not exist. "
                "Get a token with `redoma van grant` on the public site, then run `redoma van join TOKEN` here."
            )
        return former


def _are_kept(chains: Mapping[str, str], former: MembershipSet) -> bool:
    return {service: chain.encode() for service, chain in chains.items()} == {
        service: identity.chain for service, identity in former.identities.items()
    }


def kept_of(content: MembershipSet) -> KeptTrust:
    """Says what a set is about.

    Raises:
        ValueError: It is damaged.
    """
    try:
        leaves = {service: read_chain(identity.chain.decode())[0] for service, identity in content.identities.items()}
        pinned = x509.load_pem_x509_certificates(content.authorities.encode())
        site = site_of(leaves[PROVISIONER])
        sequence = verify_bundle(content.bundle, pinned, site, 0).sequence
    except (CertificateRefused, BundleRefused, KeyError, *UNREADABLE) as error:
        raise ValueError(str(error)) from error
    first = min(leaf.not_valid_after_utc for leaf in leaves.values())
    return KeptTrust(site, sequence, first, content.driver, content.link_address)
