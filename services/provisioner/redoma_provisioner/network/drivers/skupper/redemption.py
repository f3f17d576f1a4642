"""Redeems an AccessToken at Skupper's grant server, as its own CLI does, but with nothing of it on disk.

A token that lies in a site's input is redeemed again at every reload and breaks it, so what comes back is kept instead.
"""

import asyncio
import http.client
import ssl
from typing import Protocol
from urllib.parse import urlsplit

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.link_resources import LARGEST, AccessToken, LinkCredentials, parse

REDEEM_S = 10.0


class Redeemer(Protocol):
    """Turns a token into the link's credentials, once."""

    async def redeem(self, token: AccessToken, subject: str) -> LinkCredentials:
        """Redeems a token for a site.

        Raises:
            DriverRefused: It is used, expired or wrong, or the server is not the one that the token trusts.
            DriverUnavailable: The server can't be reached now; the token is still good.
        """
        ...


class GrantServer:
    """The grant server of a Kubernetes site, by HTTPS. No proxy of the environment is used."""

    def __init__(self, redeem_s: float = REDEEM_S) -> None:
        """`redeem_s`: the longest that connecting, and each read, takes, in seconds."""
        self._redeem_s = redeem_s

    async def redeem(self, token: AccessToken, subject: str) -> LinkCredentials:
        """Redeems a token for a site."""
        status, body = await asyncio.to_thread(self._post, token, subject)
        if status == http.HTTPStatus.NOT_FOUND:
            raise DriverRefused(
                "The token for Skupper's link is used up or has expired. Join again with a new one: "
                "redoma van grant --site SITE on the public site."
            )
        if status == http.HTTPStatus.FORBIDDEN:
            raise DriverRefused(
                "Skupper's grant server refused the token's code. Join again with a new one: "
                "redoma van grant --site SITE on the public site."
            )
        if status != http.HTTPStatus.OK:
            raise DriverUnavailable(f"Skupper's grant server answered {status}; look at the controller's log there.")
        credentials = parse(body.decode(errors="replace"))
        if isinstance(credentials, AccessToken):
            raise DriverRefused("Skupper's grant server answered with a token in place of a link.")
        return LinkCredentials(credentials.endpoints, credentials.data, token.cost)

    def _post(self, token: AccessToken, subject: str) -> tuple[int, bytes]:
        parts = urlsplit(token.url)
        host, port = parts.hostname or "", parts.port or 443
        place = f"Skupper's grant server at {host}:{port}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=token.ca)
        except ssl.SSLError:
            raise DriverRefused("The authority (ca) in the AccessToken is no certificate; it may be cut.") from None
        connection = http.client.HTTPSConnection(host, port, timeout=self._redeem_s, context=context)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        try:
            connection.request("POST", target, token.code.encode(), {"name": token.name, "subject": subject})
            answer = connection.getresponse()
            return answer.status, answer.read(LARGEST)
        except ssl.SSLCertVerificationError as error:
            raise DriverRefused(
                f"{place} shows a certificate that the token does not trust ({error.verify_message}). "
                "Check the clocks of both sites and what is between them, then join again with a new token."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            words = _words(error)
            raise DriverUnavailable(
                f"{place} can't be reached ({words}). Check that this machine may dial it; the token is still good."
            ) from None
        finally:
            connection.close()


def _words(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or type(error).__name__
