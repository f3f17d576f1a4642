"""Dials the public site as the private one's gateway would, to tell a closed port from a refused certificate."""

import contextlib
import enum
import socket
import ssl
from pathlib import Path

from redoma_cli.local.membership import service_identity

CONNECT_TIMEOUT_S = 3.0
# With TLS 1.3 a server refuses a client's certificate only after the client's handshake.
REFUSAL_WAIT_S = 1.0


class LinkAnswer(enum.Enum):
    """What the public site's port said."""

    TAKEN = "taken"
    REFUSED = "refused"
    CLOSED = "closed"
    UNREACHABLE = "unreachable"
    STRANGER = "stranger"


def probe_link(address: str, site: str, membership: Path) -> tuple[LinkAnswer, str]:
    """Dials host:port with the gateway's certificate; gives what came of it and the system's words for it.

    Raises:
        OSError: The certificate can't be read.
    """
    files = service_identity(membership, "gateway")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    # The server's name is another than the one that chooses the site's own door.
    context.check_hostname = False
    context.load_verify_locations(membership / "current" / "authorities.pem")
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S)
    except ConnectionRefusedError as error:
        return LinkAnswer.CLOSED, error.strerror or ""
    except (OSError, ValueError) as error:
        return LinkAnswer.UNREACHABLE, str(error)
    with contextlib.closing(connection):
        return _shake_hands(context, connection, site)


def _shake_hands(context: ssl.SSLContext, connection: socket.socket, site: str) -> tuple[LinkAnswer, str]:
    try:
        with context.wrap_socket(connection, server_hostname=f"{site}.site.redoma") as secured:
            secured.settimeout(REFUSAL_WAIT_S)
            with contextlib.suppress(TimeoutError):
                if not secured.recv(1):
                    return LinkAnswer.REFUSED, "the connection was closed"
            return LinkAnswer.TAKEN, ""
    except ssl.SSLCertVerificationError as error:
        return LinkAnswer.STRANGER, error.verify_message
    except ssl.SSLError as error:
        return LinkAnswer.REFUSED, (error.reason or str(error)).lower().replace("_", " ")
    except TimeoutError:
        return LinkAnswer.UNREACHABLE, "nobody answered in time"
    except OSError as error:
        return LinkAnswer.REFUSED, error.strerror or str(error)
