"""Keys of a private site's services, made here; all that leaves is a request for their certificates."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from redoma_provisioner.trust.csr import CertificateRequest


@dataclass(frozen=True, slots=True)
class PendingKey:
    """A key that waits for its certificate.

    Attributes:
        service: Whose it is.
        key: PEM, PKCS#8.
        csr: The request that was made for it, DER.
    """

    service: str
    key: bytes = field(repr=False)
    csr: bytes

    @property
    def request(self) -> CertificateRequest:
        """What may leave the site."""
        return CertificateRequest(self.service, self.csr)


def make_key(service: str) -> PendingKey:
    """Makes a key on P-256 and a request for its certificate; the authority writes the names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return PendingKey(service, pem, request.public_bytes(serialization.Encoding.DER))


def public_der(key: bytes) -> bytes:
    """Gives the public half of a key in PEM, as DER.

    Raises:
        ValueError: It is no key.
    """
    private = serialization.load_pem_private_key(key, password=None)
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
