"""Whether the certificates that a site is given are the ones it asked for."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from redoma_provisioner.trust.names import dns_name, uri_name
from redoma_provisioner.trust.x509_errors import UNREADABLE

MAX_CHAIN_CHARACTERS = 64 << 10
MAX_CHAIN = 4


class CertificateRefused(Exception):
    """A certificate is not what was asked for; the message says why, as the rest of a sentence about it."""


class CertificateNotYetValid(CertificateRefused):
    """A certificate begins later than it is by this machine's clock."""


def check_certificates(
    chains: Mapping[str, str],
    public_keys: Mapping[str, bytes],
    authorities: Sequence[x509.Certificate],
    site: str,
    now: datetime,
) -> None:
    """Checks certificates against the public keys, DER, by service.

    Raises:
        CertificateRefused: One is missing, or is for another key, site or service, leads to no authority, or expired.
        CertificateNotYetValid: One is not valid yet.
    """
    if chains.keys() != public_keys.keys():
        raise CertificateRefused("is not there for each key that was asked about.")
    for service, text in chains.items():
        chain = read_chain(text)
        if _public_der(chain[0]) != public_keys[service]:
            raise CertificateRefused(f"for {service} is for another key than the one that was asked about.")
        if names_of(chain[0]) != ([uri_name(site, service)], [dns_name(site, service)]):
            raise CertificateRefused(f"for {service} does not name {service} of the site {site}.")
        if not _leads_to(chain, authorities):
            raise CertificateRefused(f"for {service} is not signed by an authority that this site trusts.")
        if now < chain[0].not_valid_before_utc:
            raise CertificateNotYetValid(f"for {service} is not valid yet by this machine's clock.")
        if now >= chain[0].not_valid_after_utc:
            raise CertificateRefused(f"for {service} has expired by this machine's clock.")


def read_chain(text: str) -> list[x509.Certificate]:
    """Gives the certificates in PEM.

    Raises:
        CertificateRefused: There is none, or too many, or they can't be read.
    """
    try:
        chain = x509.load_pem_x509_certificates(text.encode()) if len(text) <= MAX_CHAIN_CHARACTERS else []
    except UNREADABLE:
        chain = []
    if not 0 < len(chain) <= MAX_CHAIN:
        raise CertificateRefused("can't be read.")
    return chain


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Gives the URI names and the DNS names in a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        return [], []
    return names.get_values_for_type(x509.UniformResourceIdentifier), names.get_values_for_type(x509.DNSName)


def site_of(certificate: x509.Certificate) -> str:
    """Gives the id of the site that a certificate names; empty where it names none."""
    uris, _ = names_of(certificate)
    parts = uris[0].split("/") if len(uris) == 1 else []
    return parts[3] if len(parts) == 5 and uris[0] == uri_name(parts[3], parts[4]) else ""


def _leads_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    for certificate, issuer in pairwise(chain):
        if not _is_authority(issuer) or not _is_issued_by(certificate, issuer):
            return False
    return any(_is_issued_by(chain[-1], authority) for authority in authorities)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except UNREADABLE:
        return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except UNREADABLE:
        return False
    return True


def _public_der(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except UNREADABLE:
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
