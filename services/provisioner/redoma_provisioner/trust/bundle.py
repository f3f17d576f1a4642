"""The trust bundle: whom a private site trusts, signed by the authority, so that it may travel any way.

A compact JSON Web Signature, ES256, over a JSON object. Its sequence number only grows, so that no old one comes back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.x509_errors import UNREADABLE

ALGORITHM = "ES256"
MAX_BUNDLE_BYTES = 1 << 20
MAX_AUTHORITIES = 16
MAX_SEQUENCE = 2**53
KeySet = Mapping[str, Any]


class BundleRefused(Exception):
    """A trust bundle can't be believed; the message says why, as the rest of a sentence about it."""


class BundleOutdated(Exception):
    """A trust bundle is older than the one that is kept."""

    def __init__(self, sequence: int, kept: int) -> None:
        super().__init__(f"is number {sequence}, older than number {kept}, which is kept.")


@dataclass(frozen=True, slots=True)
class TrustContent:
    """What all sites trust.

    Attributes:
        authorities: Certificates, PEM; the one that signs first.
        identity_keys: Who signs callers' identities, as a JSON Web Key Set.
        revoked: Serial numbers of certificates that are refused although they have not expired, lower-case hex, sorted.
    """

    authorities: tuple[str, ...]
    identity_keys: KeySet
    revoked: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A digest of it, hex, the same for the same content in every process."""
        content = [self.authorities, self.identity_keys, self.revoked]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """What one site is told to trust.

    Attributes:
        sequence: Grows with every change of `content`.
        site: The id of the site it is for.
        content: What it trusts.
        issued_at: When it was signed.
    """

    sequence: int
    site: str
    content: TrustContent
    issued_at: datetime


def sign_bundle(authority: Authority, bundle: TrustBundle) -> str:
    """Gives the bundle, signed."""
    payload = {
        "sequence": bundle.sequence,
        "site": bundle.site,
        "authorities": list(bundle.content.authorities),
        "identity_keys": bundle.content.identity_keys,
        "revoked": list(bundle.content.revoked),
        "issued_at": int(bundle.issued_at.timestamp()),
    }
    signer = jwt.PyJWS(algorithms=[ALGORITHM])
    return signer.encode(json.dumps(payload, separators=(",", ":")).encode(), authority.key, algorithm=ALGORITHM)


def verify_bundle(text: str, pinned: Sequence[x509.Certificate], site: str, least_sequence: int) -> TrustBundle:
    """Gives the bundle in `text`.

    Raises:
        BundleRefused: It is no bundle for `site` signed by one of the `pinned` authorities.
        BundleOutdated: Its sequence number is below `least_sequence`.
    """
    if len(text) > MAX_BUNDLE_BYTES:
        raise BundleRefused(f"has more than {MAX_BUNDLE_BYTES} bytes.")
    bundle = _read(_payload(text, pinned))
    if bundle.site != site:
        raise BundleRefused(f"is for another site than {site}.")
    if bundle.sequence < least_sequence:
        raise BundleOutdated(bundle.sequence, least_sequence)
    return bundle


def authority_certificates(bundle: TrustBundle) -> list[x509.Certificate]:
    """Gives the authorities of a verified bundle."""
    return [x509.load_pem_x509_certificate(pem.encode()) for pem in bundle.content.authorities]


def authorities_pem(authority: Authority) -> tuple[str, ...]:
    """Gives the certificates that sites shall trust, PEM, the authority's own first."""
    return tuple(
        certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in authority.certificates
    )


def _payload(text: str, pinned: Sequence[x509.Certificate]) -> bytes:
    verifier = jwt.PyJWS(algorithms=[ALGORITHM])
    for certificate in pinned:
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            continue
        try:
            decoded = verifier.decode_complete(text, key, algorithms=[ALGORITHM])
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
        payload: bytes = decoded["payload"]
        return payload
    raise BundleRefused("is not signed by an authority that this site trusts.")


def _read(payload: bytes) -> TrustBundle:
    try:
        value = json.loads(payload)
        content = TrustContent(
            _texts(value["authorities"], MAX_AUTHORITIES), _key_set(value["identity_keys"]), _texts(value["revoked"])
        )
        for serial in content.revoked:
            int(serial, 16)
        issued_at = datetime.fromtimestamp(_whole(value["issued_at"]), UTC)
        bundle = TrustBundle(_whole(value["sequence"]), _text(value["site"]), content, issued_at)
        if not authority_certificates(bundle):
            raise ValueError("authorities")
    except (*UNREADABLE, KeyError, OverflowError, OSError, RecursionError):
        raise BundleRefused("is signed, but can't be read; the public site may be of a newer release.") from None
    return bundle


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEQUENCE:
        raise TypeError("number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _texts(value: object, most: int = MAX_BUNDLE_BYTES) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise TypeError("list")
    return tuple(_text(one) for one in value)


def _key_set(value: object) -> KeySet:
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise TypeError("key set")
    return value
