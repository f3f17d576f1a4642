"""The authority that signs the certificates of private sites, and their trust bundles."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.trust.csr import CheckedRequest
from redoma_provisioner.trust.names import dns_name, uri_name
from redoma_provisioner.trust.record import CertificateRecord, IssuedCertificate
from redoma_provisioner.trust.x509_errors import UNREADABLE

# Clocks of two machines, or of one before and after it was set, differ a little.
BACKDATE = timedelta(minutes=5)


class Authority:
    """Signs certificates of private sites for keys that never leave them.

    Attributes:
        certificates: The authority's own certificate first, then others that sites shall trust beside it.
        key: Its private key, on P-256.
    """

    __slots__ = ("_lifetime", "_now", "certificates", "key")

    def __init__(
        self,
        certificates: Sequence[x509.Certificate],
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self.certificates = tuple(certificates)
        self.key = key
        self._lifetime = lifetime
        self._now = now

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate of `key`."""
        return self.certificates[0]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the DER of its certificate, by which a join token knows it."""
        return self.certificate.fingerprint(hashes.SHA256())

    def issue(self, site: str, request: CheckedRequest) -> IssuedCertificate:
        """Signs the certificate of a service of a site, for the request's key alone."""
        now = self._now()
        # Certificates have whole seconds.
        begin = now.replace(microsecond=0)
        expire_time = min(begin + self._lifetime, self.certificate.not_valid_after_utc)
        certificate = self._builder(site, request, begin - BACKDATE, expire_time).sign(self.key, hashes.SHA256())
        record = CertificateRecord(
            serial=f"{certificate.serial_number:x}",
            site=site,
            service=request.service,
            fingerprint=fingerprint(certificate),
            issue_time=now,
            expire_time=expire_time,
        )
        return IssuedCertificate(record, certificate.public_bytes(serialization.Encoding.PEM).decode())

    def _builder(self, site: str, request: CheckedRequest, begin: datetime, end: datetime) -> x509.CertificateBuilder:
        names = [
            x509.UniformResourceIdentifier(uri_name(site, request.service)),
            x509.DNSName(dns_name(site, request.service)),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer_key = self.key.public_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{request.service} of {site}")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(request.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_signing_only(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )


def load_authority(cert_file: Path, key_file: Path, lifetime_s: float, now: Callable[[], datetime]) -> Authority:
    """Reads the authority from its files, PEM. Certificates for other keys in `cert_file` are trusted beside its own.

    Raises:
        CannotStart: A file can't be read or used, or the key is no certificate's; the message says which.
    """
    try:
        found = x509.load_pem_x509_certificates(cert_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise CannotStart(f"The authority's file {error.filename} can't be read: {error.strerror}.") from error
    except UNREADABLE as error:
        raise CannotStart(f"{cert_file} and {key_file} are not a certificate and an open key in PEM.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CannotStart(f"The authority's key {key_file} is not on P-256; make one with `openssl ecparam`.")
    own = [certificate for certificate in found if certificate.public_key() == key.public_key()]
    if not own:
        raise CannotStart(f"{key_file} is the key of no certificate in {cert_file}.")
    others = [certificate for certificate in found if certificate is not own[0]]
    return Authority([own[0], *others], key, timedelta(seconds=lifetime_s), now)


def fingerprint(certificate: x509.Certificate) -> str:
    """Gives the SHA-256 of a certificate's DER, lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
