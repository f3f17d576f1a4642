"""The development authority: a certificate for each process of a public site, and the key that signs identities.

Real deployments get theirs from the provisioner or cert-manager; this one exists so that one machine needs neither, and
still speaks nothing but mutual TLS.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from redoma_cli.local.home import PRIVATE_DIRECTORY, write_private
from redoma_kit import policy

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)
CONTENT_KEY_BYTES = 32
# Clocks of two machines, or of one before and after it was set, differ a little.
BACKDATE = timedelta(minutes=5)
PUBLIC_SITE = "public"
PUBLIC_SERVICES = dict.fromkeys(("tenant", "chat", "edge", "egress", "provisioner", "supervisor"), PUBLIC_SITE)
# A private site gets its certificates by joining. Those that were made here for it must not lie about.
RETIRED_SERVICES = ("model",)


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where one service's identity lies, PEM."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The service's certificate."""
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        """The service's private key."""
        return self.directory / "tls.key"


def server_name(service: str, site: str = PUBLIC_SITE) -> str:
    """The DNS name in a service's certificate, which its callers check."""
    return f"{service}.{site}.redoma"


def certificate_expiry(files: IdentityFiles) -> datetime:
    """When a certificate expires.

    Raises:
        OSError: There is none.
        ValueError: It can't be read, or its key is another's.
    """
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{files.key} is not the key of {files.certificate}")
    return certificate.not_valid_after_utc


class DevelopmentAuthority:
    """Makes what is missing, damaged or about to expire under `directory`, and leaves the rest as it is.

    `services` says which have an identity, and of which site.
    """

    def __init__(
        self,
        directory: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        services: Mapping[str, str] = MappingProxyType(PUBLIC_SERVICES),
    ) -> None:
        self._directory = directory
        self._now = now
        self._services = services

    @property
    def certificate(self) -> Path:
        """The authority's own certificate, PEM."""
        return self._directory / "ca.crt"

    @property
    def key(self) -> Path:
        """The authority's private key, PEM, on P-256."""
        return self._directory / "ca.key"

    @property
    def signing_key(self) -> Path:
        """The Ed25519 key that the tenant service signs identities with, PEM PKCS#8."""
        return self._directory / "signing.key"

    @property
    def jwks(self) -> Path:
        """The public half of the signing key, as a JSON Web Key Set."""
        return self._directory / "jwks.json"

    @property
    def content_key(self) -> Path:
        """The key that wraps the tenants' content keys; without it nothing that chat keeps can be read."""
        return self._directory / "content.key"

    def identity(self, service: str) -> IdentityFiles:
        """Where the service's identity lies."""
        return IdentityFiles(self._directory / service)

    def ensure(self) -> None:
        """Makes the authority, an identity for each service, the signing key, its key set and the content key.

        Raises:
            OSError: A file can't be read or written.
        """
        authority_key, authority = self._ensure_authority()
        for service in self._services:
            self._ensure_identity(service, authority_key, authority)
        for service in set(RETIRED_SERVICES) - set(self._services):
            shutil.rmtree(self._directory / service, ignore_errors=True)
        self._ensure_signing_key()
        if not self.content_key.exists():
            # Never made anew, whatever is in it: what it wrapped would be lost.
            write_private(self.content_key, base64.b64encode(os.urandom(CONTENT_KEY_BYTES)) + b"\n")

    def expiry(self, service: str) -> datetime:
        """When the service's certificate expires.

        Raises:
            OSError: There is none.
            ValueError: It can't be read, or its key is another's.
        """
        return certificate_expiry(self.identity(service))

    def _ensure_authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        kept_key, kept = _read_key(self.key), _read_certificate(self.certificate)
        if (
            isinstance(kept_key, ec.EllipticCurvePrivateKey)
            and kept is not None
            and kept.public_key() == kept_key.public_key()
            and self._lasts(kept, LEAF_LIFETIME)
        ):
            return kept_key, kept
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Redoma development authority")])
        certificate = (
            self._builder(name, name, key.public_key(), CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self.key, _pem(key))
        write_private(self.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate

    def _ensure_identity(
        self, service: str, authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
    ) -> None:
        files = self.identity(service)
        authority_pem = authority.public_bytes(serialization.Encoding.PEM)
        kept_key, kept = _read_key(files.key), _read_certificate(files.certificate)
        if (
            kept_key is not None
            and kept is not None
            and kept.public_key() == kept_key.public_key()
            and files.ca.exists()
            and files.ca.read_bytes() == authority_pem
            and self._lasts(kept, RENEW_BEFORE)
        ):
            return
        files.directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        site = self._services[service]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{service} of {site}")])
        uri = x509.UniformResourceIdentifier(policy.spiffe_id(site, service))
        names = [uri, x509.DNSName(server_name(service, site))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, authority.subject, key.public_key(), LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        write_private(files.key, _pem(key))
        write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(files.ca, authority_pem)

    def _ensure_signing_key(self) -> None:
        key = _read_key(self.signing_key)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            key = ed25519.Ed25519PrivateKey.generate()
            write_private(self.signing_key, _pem(key))
        content = (json.dumps({"keys": [public_jwk(key.public_key())]}, indent=2) + "\n").encode()
        if not self.jwks.exists() or self.jwks.read_bytes() != content:
            write_private(self.jwks, content)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        now = self._now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + lifetime)
        )

    def _lasts(self, certificate: x509.Certificate, margin: timedelta) -> bool:
        now = self._now()
        return certificate.not_valid_before_utc <= now and now + margin < certificate.not_valid_after_utc


def public_jwk(key: ed25519.Ed25519PublicKey) -> dict[str, str]:
    """Gives the JSON Web Key of a public key; its `kid` is the RFC 7638 thumbprint."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    required = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {**required, "alg": "EdDSA", "use": "sig", "kid": _base64url(thumbprint)}


def _read_certificate(file: Path) -> x509.Certificate | None:
    """Reads a certificate; None where there is none that can be used."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _read_key(file: Path) -> PrivateKeyTypes | None:
    """Reads a private key; None where there is none that can be used."""
    try:
        return serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
