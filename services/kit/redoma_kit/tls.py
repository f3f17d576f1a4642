"""What a service shows to those it calls, and who the peer of a call is."""

from collections.abc import Iterable, Mapping

import grpc

from redoma_kit.settings import TlsSettings

SPIFFE_PREFIX = "spiffe://redoma/"


def channel_credentials(tls: TlsSettings) -> grpc.ChannelCredentials:
    """Gives credentials that show the service's certificate and trust the authority's servers only.

    Raises:
        OSError: A file can't be read.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=tls.ca_file.read_bytes(),
        private_key=tls.key_file.read_bytes(),
        certificate_chain=tls.cert_file.read_bytes(),
    )


def peer_spiffe_id(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Gives the SPIFFE id in the peer's certificate, or an empty string if it carries none or several."""
    names = [name.decode("utf-8", "replace") for name in auth_context.get("x509_subject_alternative_name", [])]
    ids = [name for name in names if name.startswith(SPIFFE_PREFIX)]
    return ids[0] if len(ids) == 1 else ""
