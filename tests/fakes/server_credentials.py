"""The identity of a double that serves: as its files are when it starts, which a service's own server would follow."""

import grpc

from redoma_kit.settings import TlsSettings


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """Gives credentials that require a client certificate of the trusted authority, by the files as they are now.

    Raises:
        OSError: A file can't be read.
    """
    return grpc.ssl_server_credentials(
        [(tls.key_file.read_bytes(), tls.cert_file.read_bytes())],
        root_certificates=tls.ca_file.read_bytes(),
        require_client_auth=True,
    )
