"""Certificate requests as they come from outside: bounded, for keys of a kind we take, and from who has the key."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from redoma_kit.errors import InvalidField
from redoma_provisioner.trust.names import NEEDED_SERVICES, SERVICES
from redoma_provisioner.trust.x509_errors import UNREADABLE

MAX_CSR_BYTES = 8 << 10
SiteKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What asks for the certificate of one service: PKCS#10, DER. Its names are ignored."""

    service: str
    csr: bytes


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A certificate request whose sender has the key."""

    service: str
    key: SiteKey


def check_services(field: str, requests: Sequence[CertificateRequest]) -> None:
    """Raises InvalidField unless each asks for another of SERVICES, those that a site needs among them, within size."""
    if len(requests) > len(SERVICES):
        raise InvalidField(field, f"has {len(requests)} requests; the most is {len(SERVICES)}, one for each service.")
    for index, request in enumerate(requests):
        if request.service not in SERVICES:
            raise InvalidField(f"{field}[{index}].service", f"must be one of {', '.join(SERVICES)}.")
        if len(request.csr) > MAX_CSR_BYTES:
            raise InvalidField(f"{field}[{index}].csr", f"has more than {MAX_CSR_BYTES} bytes.")
    asked = {request.service for request in requests}
    if len(asked) != len(requests):
        raise InvalidField(field, "must ask for each service once.")
    if missing := NEEDED_SERVICES - asked:
        raise InvalidField(field, f"must ask for {' and '.join(sorted(missing))} too.")


def checked_requests(field: str, requests: Sequence[CertificateRequest]) -> list[CheckedRequest]:
    """Gives the requests with their keys, in their order.

    Raises:
        InvalidField: One can't be read, is for a key of another kind, or is not signed by its key; or two share a key.
    """
    checked = [
        CheckedRequest(request.service, _key(f"{field}[{index}].csr", request.csr))
        for index, request in enumerate(requests)
    ]
    if len({key_bytes(request.key) for request in checked}) != len(checked):
        raise InvalidField(field, "must have a key of its own for each service.")
    return checked


def keys_digest(requests: Iterable[CheckedRequest]) -> str:
    """Gives a digest of which key asks for which service, in hex; their order does not matter."""
    parts = sorted(request.service.encode() + hashlib.sha256(key_bytes(request.key)).digest() for request in requests)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def key_bytes(key: SiteKey) -> bytes:
    """Gives a public key as DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key(field: str, csr: bytes) -> SiteKey:
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
    except UNREADABLE:
        raise InvalidField(
            field, "is not a certificate request in PKCS#10, DER, for a key that is known here."
        ) from None
    if not _is_taken(key):
        raise InvalidField(field, "must be for a key on P-256 or Ed25519.")
    try:
        is_signed = request.is_signature_valid
    except UNREADABLE:
        is_signed = False
    if not is_signed:
        raise InvalidField(field, "is not signed by the key that it is for.")
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)  # noqa: S101 (for the type)
    return key


def _is_taken(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)
