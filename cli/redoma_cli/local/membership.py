"""What a private site of this machine knows of its membership: the files that its provisioner keeps, read only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509

from redoma_cli.local.pki import IdentityFiles, certificate_expiry

SERVICES = ("gateway", "model", "provisioner", "supervisor")
LINKED = "LINKED"
SPIFFE_PREFIX = "spiffe://redoma/"
# How much younger than this machine's clock a certificate may be: the clocks of two machines differ a little.
SKEW = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of joining.

    Attributes:
        title: What it does, for people.
        state: pending, running, done or failed.
        detail: More about it; empty for nothing.
    """

    title: str
    state: str
    detail: str = ""

    @classmethod
    def read(cls, entry: Mapping[str, object]) -> Self:
        """Reads it from JSON.

        Raises:
            KeyError: A part is missing.
        """
        return cls(str(entry["title"]), str(entry["state"]), str(entry.get("detail") or ""))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a site is not part of its network.

    Attributes:
        reason: One word, for programs.
        message: The same for people.
        mend: What to do.
    """

    reason: str
    message: str
    mend: str

    @classmethod
    def read(cls, entry: Mapping[str, object]) -> Self:
        """Reads it from JSON."""
        return cls(str(entry.get("reason") or ""), str(entry.get("message") or ""), str(entry.get("mend") or ""))


@dataclass(frozen=True, slots=True)
class MembershipState:
    """What state.json says.

    Attributes:
        phase: JOINING, REFUSED, JOINED or LINKED; empty where nothing was joined.
        site: The site's id.
        driver: What carries the link.
        link_address: host:port of the public site.
        linked_since: Since when it is linked, ISO 8601; empty: it is not.
        steps: The steps of joining.
        error: What is wrong, or None.
        updated_at: When that was written, ISO 8601.
    """

    phase: str = ""
    site: str = ""
    driver: str = ""
    link_address: str = ""
    linked_since: str = ""
    steps: tuple[Step, ...] = ()
    error: Failure | None = None
    updated_at: str = ""

    @property
    def linked(self) -> bool:
        """Whether calls get through now."""
        return self.phase == LINKED


@dataclass(frozen=True, slots=True)
class Membership:
    """The certificates of a joined site.

    Attributes:
        site: The site's id.
        expire_time: When the first of its certificates expires.
        begin_time: From when on the last of them is valid.
    """

    site: str
    expire_time: datetime
    begin_time: datetime


class MembershipDamaged(Exception):
    """Something was joined, and can't be used any more; the message says what is wrong."""


def read_state(directory: Path) -> MembershipState:
    """Reads state.json; an empty state where there is none that can be read."""
    try:
        content = json.loads((directory / "state.json").read_text())
        error = content.get("error")
        return MembershipState(
            phase=str(content["phase"]),
            site=str(content.get("site") or ""),
            driver=str(content.get("driver") or ""),
            link_address=str(content.get("link_address") or ""),
            linked_since=str(content.get("linked_since") or ""),
            steps=tuple(Step.read(step) for step in content.get("steps") or ()),
            error=Failure.read(error) if error else None,
            updated_at=str(content.get("updated_at") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return MembershipState()


def service_identity(directory: Path, service: str) -> IdentityFiles:
    """Where the identity of a service of the private site lies; it is replaced there as a whole."""
    return IdentityFiles(directory / "current" / service)


def read_membership(directory: Path) -> Membership | None:
    """Reads the certificates of a joined site; None where nothing was joined.

    Raises:
        MembershipDamaged: Something is missing or can't be read.
    """
    if not (directory / "current").exists():
        return None
    expiries, begins, sites = [], [], set()
    try:
        for service in SERVICES:
            files = service_identity(directory, service)
            expiries.append(certificate_expiry(files))
            certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
            begins.append(certificate.not_valid_before_utc)
            sites.add(_site_of(certificate))
            files.ca.read_bytes()
        for name in ("authorities.pem", "jwks.json"):
            (directory / "current" / name).read_bytes()
    except OSError as error:
        raise MembershipDamaged(f"{error.filename} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise MembershipDamaged(f"A certificate in {directory} is damaged: {error}.") from error
    if len(sites) != 1:
        raise MembershipDamaged(f"The certificates in {directory} are of several sites.")
    return Membership(sites.pop(), min(expiries), max(begins))


def trouble_of(directory: Path, membership: Membership, authority: Path | None, now: datetime) -> str:
    """Says why a membership can't be used any more, as a sentence; empty when it can.

    `authority` is the certificate of the public site's authority, where that is on this machine.
    """
    if membership.expire_time <= now:
        return f"Its certificates have expired on {membership.expire_time:%Y-%m-%d}."
    if authority is not None and not _knows(directory / "current" / "authorities.pem", authority):
        return "It was joined to another authority than the public site's of this home."
    return ""


def utc_now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


def _knows(authorities: Path, authority: Path) -> bool:
    try:
        known = x509.load_pem_x509_certificates(authorities.read_bytes())
        return x509.load_pem_x509_certificate(authority.read_bytes()) in known
    except (OSError, ValueError):
        return False


def _site_of(certificate: x509.Certificate) -> str:
    """Gives the site in a certificate's URI name.

    Raises:
        ValueError: It has none.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it has no name") from None
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        site, slash, _ = name.removeprefix(SPIFFE_PREFIX).partition("/")
        if name.startswith(SPIFFE_PREFIX) and slash:
            return site
    raise ValueError("it names no site")
