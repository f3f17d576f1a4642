"""The deployment under test, as anyone outside sees it: one URL."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from redoma_cli.conformance.http_client import HttpClient
from redoma_cli.errors import CliError

MAX_MESSAGE_BYTES = 16 << 20
MAX_METADATA_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a deployment is called.

    Attributes:
        url: Its URL.
        host: Its host.
        port: Its port.
        roots: Certificates to trust, PEM; None is those of the machine.
    """

    url: str
    host: str
    port: int
    roots: bytes | None = None

    @property
    def secure(self) -> bool:
        """Whether it is called over TLS."""
        return self.url.startswith("https:")

    def channel(self) -> grpc.aio.Channel:
        """Opens a gRPC channel that shares no connection with others."""
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        target = f"{self.host}:{self.port}"
        if self.secure:
            return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(self.roots), options=options)
        return grpc.aio.insecure_channel(target, options=options)

    def http(self) -> HttpClient:
        """Gives an HTTP/1.1 client."""
        tls = None
        if self.secure:
            tls = ssl.create_default_context(cadata=self.roots.decode() if self.roots else None)
        return HttpClient(self.host, self.port, tls, urlsplit(self.url).netloc)


def edge_at(url: str, ca_file: Path | None = None) -> Edge:
    """Reads the URL of an edge.

    Raises:
        CliError: It is none, or the certificates can't be read.
    """
    whole = url if "//" in url else f"http://{url}"
    address = urlsplit(whole)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise CliError(f"{url} is not the URL of an edge.", "Give one such as http://127.0.0.1:8080")
    port = address.port or (443 if address.scheme == "https" else 80)
    return Edge(whole, address.hostname, port, ca_file.read_bytes() if ca_file else None)
