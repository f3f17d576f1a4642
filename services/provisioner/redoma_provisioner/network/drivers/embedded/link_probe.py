"""Why a private site's gateway gets no tunnel: the same connection, made once from here, and looked at."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from redoma_kit.policy import spiffe_id
from redoma_provisioner.edge.resources.clusters import host_and_port
from redoma_provisioner.edge.resources.tunnels import tunnel_server_name
from redoma_provisioner.edge.snapshot import InvalidSnapshot
from redoma_provisioner.settings import ProxySettings

TIMEOUT_S = 3.0
# A server that refuses the certificate says so right after the handshake.
LISTEN_S = 1.0
_EXPIRED, _NOT_YET_VALID = 10, 9
_EGRESS = spiffe_id("public", "egress")


@dataclass(frozen=True, slots=True)
class LinkProblem:
    """Why there is no tunnel, as one word and as a sentence with the mending step."""

    reason: str
    message: str


class LinkProbe:
    """Dials the public site as the gateway of `site` does, with its certificate."""

    def __init__(
        self, files: ProxySettings, site: str, now: Callable[[], datetime], timeout_s: float = TIMEOUT_S
    ) -> None:
        self._files = files
        self._site = site
        self._now = now
        self._timeout_s = timeout_s

    async def look(self, address: str) -> LinkProblem:
        """Dials host:port, and says what is wrong there."""
        try:
            host, port = host_and_port(address)
            if (expired := self._expired()) is not None:
                return expired
            context = self._context()
        except InvalidSnapshot as error:
            return LinkProblem("BadAddress", str(error))
        except (OSError, ValueError):
            return LinkProblem(
                "NoIdentity", f"The certificate of this site's gateway, {self._files.cert_file}, can't be read."
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._dial(address, host, port, context)
        except TimeoutError:
            return LinkProblem("NoAnswer", f"No answer from {address}: a firewall on the way may drop what goes there.")
        except ssl.SSLCertVerificationError as error:
            return self._mistrusted(address, error)
        except (ssl.SSLError, ConnectionResetError, EOFError):
            return self._not_admitted(address)
        except ConnectionRefusedError:
            return LinkProblem(
                "Refused", f"Nobody listens at {address}: look whether the public site runs and its port is open."
            )
        except socket.gaierror:
            return LinkProblem("NameUnknown", f"The name in {address} can't be looked up: see this machine's DNS.")
        except OSError as error:
            return LinkProblem("Unreachable", f"{address} can't be reached: {error.strerror or error}.")

    async def _dial(self, address: str, host: str, port: int, context: ssl.SSLContext) -> LinkProblem:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=tunnel_server_name(self._site)
        )
        try:
            names = writer.get_extra_info("peercert", {}).get("subjectAltName", ())
            if ("URI", _EGRESS) not in names:
                return LinkProblem("WrongServer", f"{address} is another service than the egress of a public site.")
            try:
                async with asyncio.timeout(LISTEN_S):
                    await reader.read(1)
            except TimeoutError:
                return LinkProblem(
                    "NotDialled",
                    f"{address} takes this site's certificate, but the gateway keeps no tunnel there: if that lasts, "
                    "look at its log.",
                )
            except (ssl.SSLError, ConnectionError):
                pass
            return LinkProblem(
                "CertificateRefused",
                f"{address} refuses this gateway's certificate: the site was revoked, or has other certificates by "
                f"now; {self._join_anew}.",
            )
        finally:
            writer.transport.abort()

    def _expired(self) -> LinkProblem | None:
        certificate = x509.load_pem_x509_certificate(self._files.cert_file.read_bytes())
        now = self._now()
        if certificate.not_valid_before_utc > now:
            return LinkProblem(
                "ClockOutOfStep",
                "This gateway's certificate begins later than it is by this machine's clock: set the clock.",
            )
        if certificate.not_valid_after_utc > now:
            return None
        return LinkProblem(
            "CertificateExpired",
            f"This gateway's certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: if this "
            f"machine's clock is right, {self._join_anew}.",
        )

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Who it is shows in its URI name.
        context.check_hostname = False
        context.load_verify_locations(self._files.ca_file)
        context.load_cert_chain(self._files.cert_file, self._files.key_file)
        return context

    def _mistrusted(self, address: str, error: ssl.SSLCertVerificationError) -> LinkProblem:
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            message = (
                f"The certificate of {address} is not valid by this machine's clock: one of the two is out of date."
            )
            return LinkProblem("ClockOutOfStep", message)
        message = f"{address} is of another authority than the one this site joined: {self._join_anew}."
        return LinkProblem("WrongAuthority", message)

    def _not_admitted(self, address: str) -> LinkProblem:
        message = f"{address} does not admit this site: it was revoked or forgotten there; {self._join_anew}."
        return LinkProblem("NotAdmitted", message)

    @property
    def _join_anew(self) -> str:
        return f"join anew with a token of `redoma van grant --site {self._site} --rejoin`"
