"""A throw-away authority for a cluster of tests: its certificates last a day."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """Makes keys and certificates as files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster tests")])
        made = self._build(self._name, self._key.public_key(), is_authority=True).sign(self._key, hashes.SHA256())
        self.certificate = self._write("ca.crt", made.public_bytes(serialization.Encoding.PEM))

    def pair(
        self,
        file: str,
        name: str,
        usage: x509.ObjectIdentifier,
        *,
        groups: Sequence[str] = (),
        names: Sequence[x509.GeneralName] = (),
    ) -> tuple[Path, Path]:
        """Gives a certificate and its key; Kubernetes takes the organizations of a client for its groups."""
        key, path = self._new_key(file)
        subject = [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
        builder = self._build(x509.Name(subject), key.public_key(), is_authority=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if usage == SERVER:
            local = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "10.0.0.1")]
            builder = builder.add_extension(x509.SubjectAlternativeName([*names, *local]), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return self._write(f"{file}.crt", made.public_bytes(serialization.Encoding.PEM)), path

    def signing_key(self, file: str) -> None:
        """Makes FILE.key and FILE.pub."""
        key, _ = self._new_key(file)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self._write(f"{file}.pub", key.public_key().public_bytes(serialization.Encoding.PEM, form))

    def _new_key(self, file: str) -> tuple[ec.EllipticCurvePrivateKey, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key, self._write(f"{file}.key", pem)

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path
