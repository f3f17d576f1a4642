"""Those who take part in joining: an authority, sites that make keys, and a clock that a test moves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from redoma_kit.settings import TlsSettings
from redoma_provisioner.trust.authority import Authority, load_authority
from redoma_provisioner.trust.csr import CertificateRequest, checked_requests
from redoma_provisioner.trust.names import SERVICES

LIFETIME = timedelta(days=30)


@dataclass(slots=True)
class MovedClock:
    """The machine's time, moved by what a test asks for."""

    moved: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.moved


@dataclass(slots=True)
class SiteKeys:
    """A private site's keys, by service, and requests for their certificates."""

    keys: dict[str, ec.EllipticCurvePrivateKey] = field(
        default_factory=lambda: {service: ec.generate_private_key(ec.SECP256R1()) for service in SERVICES}
    )

    def requests(self, services: Iterable[str] = SERVICES) -> tuple[CertificateRequest, ...]:
        """Gives the requests for some services."""
        return tuple(CertificateRequest(service, request_for(self.keys[service])) for service in services)


def request_for(key: ec.EllipticCurvePrivateKey, name: str = "whatever") -> bytes:
    """Gives a certificate request, DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def make_authority(folder: Path, now: Callable[[], datetime], lifetime: timedelta = LIFETIME) -> Authority:
    """Makes an authority whose files lie in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(days=365))
        .not_valid_after(now() + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.key").write_bytes(key_pem(key))
    return load_authority(folder / "ca.crt", folder / "ca.key", lifetime.total_seconds(), now)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Gives a key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def identity_files(authority: Authority, folder: Path, site: str, service: str) -> TlsSettings:
    """Makes the identity of a service, of any site, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    (checked,) = checked_requests("it", [CertificateRequest(service, request_for(key))])
    folder.mkdir(parents=True, exist_ok=True)
    files = TlsSettings(ca_file=folder / "ca.crt", cert_file=folder / "tls.crt", key_file=folder / "tls.key")
    files.ca_file.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    files.cert_file.write_text(authority.issue(site, checked).chain)
    files.key_file.write_bytes(key_pem(key))
    return files


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
