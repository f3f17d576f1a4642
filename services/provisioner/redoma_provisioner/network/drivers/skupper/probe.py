"""Whether something listens: what Skupper says lags up to 30 s behind, an attempt to connect does not."""

import asyncio
import ssl
from contextlib import suppress
from enum import Enum
from typing import Protocol

from redoma_provisioner.network.drivers.skupper.link_resources import LinkCredentials

CONNECT_S = 1.0


class Trust(Enum):
    """How far a connection to the end of a link gets."""

    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted"
    TRUSTED = "trusted"


class Probe(Protocol):
    """Connects, and says how far it got. Raises nothing."""

    async def opens(self, host: str, port: int) -> bool:
        """Tells whether a TCP connection opens."""
        ...

    async def trusts(self, host: str, port: int, credentials: LinkCredentials) -> Trust:
        """Tells whether what listens shows a certificate of the link's authority."""
        ...


class NetworkProbe:
    """Probes by real connections, which are closed at once; it sends nothing but a TLS handshake."""

    def __init__(self, connect_s: float = CONNECT_S) -> None:
        """`connect_s`: the longest one attempt takes, in seconds."""
        self._connect_s = connect_s

    async def opens(self, host: str, port: int) -> bool:
        """Tells whether a TCP connection opens."""
        try:
            async with asyncio.timeout(self._connect_s):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        await _close(writer)
        return True

    async def trusts(self, host: str, port: int, credentials: LinkCredentials) -> Trust:
        """Tells whether what listens shows a certificate of the link's authority, whatever names it has."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=credentials.pem("ca.crt"))
            async with asyncio.timeout(self._connect_s * 2):
                _, writer = await asyncio.open_connection(host, port, ssl=context)
        except ssl.SSLCertVerificationError:
            return Trust.UNTRUSTED
        except ssl.SSLError as error:
            # An alert comes from a router that was trusted and wants a certificate of ours; a probe shows none.
            return Trust.TRUSTED if "ALERT" in (error.reason or "") else Trust.UNTRUSTED
        except (OSError, TimeoutError):
            return Trust.UNREACHABLE
        await _close(writer)
        return Trust.TRUSTED


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_S):
            await writer.wait_closed()
