"""The certificate that a server shows, read anew when its files change, so that no restart is needed to replace it.

gRPC asks at each handshake. Connections that are open keep what they began with, so nothing that runs is broken.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from redoma_kit.settings import TlsSettings

# Of each file: when it was written, which one it is, how long it is.
Stamps = tuple[tuple[int, int, int], ...]


class IdentityUnusable(OSError):
    """The files of an identity can't be used; the message says which is wrong."""


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """What the files of an identity hold, PEM."""

    authorities: bytes
    certificates: bytes
    key: bytes


class ServerIdentity:
    """Gives gRPC the identity of a server.

    A set of files that is unreadable or does not belong together, as one that is just being written, leaves the former
    in force and is told once.
    """

    def __init__(self, tls: TlsSettings, log: structlog.stdlib.BoundLogger) -> None:
        """Reads the files.

        Raises:
            OSError: A file can't be read.
            IdentityUnusable: They hold nothing to be used, or don't belong together.
        """
        self._tls = tls
        self._log = log
        # gRPC may shake hands on several threads.
        self._lock = threading.Lock()
        self._stamps = _stamps(self._paths)
        self._refused: Stamps | str | None = None
        self._first = _configuration(_read(tls))

    @property
    def _paths(self) -> Sequence[Path]:
        return (self._tls.ca_file, self._tls.cert_file, self._tls.key_file)

    def credentials(self) -> grpc.ServerCredentials:
        """Gives credentials that require a client certificate of the trusted authority."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            # gRPC takes None for no change, though its stubs do not say so.
            self._changed,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Gives the identity if it is another than at the last handshake. Nothing may be raised into gRPC."""
        with self._lock:
            try:
                stamps = _stamps(self._paths)
            except OSError as error:
                self._tell(str(error), error)
                return None
            if stamps in (self._stamps, self._refused):
                return None
            return self._read_anew(stamps)

    def _read_anew(self, stamps: Stamps) -> grpc.ServerCertificateConfiguration | None:
        try:
            files = _read(self._tls)
            if _stamps(self._paths) != stamps:
                # They change as we read: the next handshake finds them at rest.
                return None
            configuration = _configuration(files)
        except OSError as error:
            self._tell(stamps, error)
            return None
        self._stamps, self._refused = stamps, None
        self._log.info("the server's certificate was read anew", file=str(self._tls.cert_file))
        return configuration

    def _tell(self, refused: Stamps | str, error: OSError) -> None:
        if refused != self._refused:
            self._refused = refused
            self._log.error("the server's new certificate can't be used; the former stays", cause=str(error))


def _stamps(paths: Sequence[Path]) -> Stamps:
    found = (path.stat() for path in paths)
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)


def _read(tls: TlsSettings) -> IdentityFiles:
    return IdentityFiles(tls.ca_file.read_bytes(), tls.cert_file.read_bytes(), tls.key_file.read_bytes())


def _configuration(files: IdentityFiles) -> grpc.ServerCertificateConfiguration:
    """Gives it to gRPC, after checking what gRPC would only find out at each handshake."""
    try:
        load_pem_x509_certificates(files.authorities)
    except ValueError:
        raise IdentityUnusable("The file of the authorities holds no certificates.") from None
    try:
        certificate = load_pem_x509_certificates(files.certificates)[0]
    except ValueError:
        raise IdentityUnusable("The certificate's file holds none.") from None
    try:
        key = load_pem_private_key(files.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityUnusable("The private key's file holds none that can be used.") from None
    if key.public_key() != certificate.public_key():
        raise IdentityUnusable("The private key is not the certificate's.")
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificates)], root_certificates=files.authorities
    )
