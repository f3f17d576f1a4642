"""What lets one site link to another, as Skupper writes it: an AccessToken, or a Link with its Secret.

The text comes from another site or from a file that a person got, so it is bounded and checked like any input, and none
of it is ever shown: a token's code and a Secret's key are credentials.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import yaml

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import checked_host, checked_port
from redoma_provisioner.network.drivers.skupper.resource import API_VERSION, LINK_ROLES, Endpoint

LARGEST = 32 * 1024
MOST_ENDPOINTS = 16
_KEYS = frozenset({"ca.crt", "tls.crt", "tls.key"})
_MORE_KEYS = frozenset({"connect.json"})
_AGAIN = "Get it again from the public site: redoma van grant --site SITE."


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What is redeemed, once, for a link.

    Attributes:
        name: Its name, which its grant server wants to hear.
        url: https address of the grant server.
        code: The secret.
        ca: PEM of the authority of the grant server.
        cost: Of the link.
    """

    name: str
    url: str
    code: str = field(repr=False)
    ca: str
    cost: int = 1


@dataclass(frozen=True, slots=True)
class LinkCredentials:
    """Where a link goes and by which key and certificates: base64 of PEM by file name."""

    endpoints: tuple[Endpoint, ...]
    data: Mapping[str, str] = field(repr=False)
    cost: int = 1

    def pem(self, name: str) -> str:
        """Gives one of the PEM texts, such as "ca.crt"."""
        return base64.b64decode(self.data[name]).decode(errors="replace")


def parse(text: str) -> AccessToken | LinkCredentials:
    """Reads what `invite` gave, or a file that `skupper link generate` wrote.

    Raises:
        DriverRefused: It is too large, no YAML, or lacks what it needs; the message has nothing of it.
    """
    if len(text) > LARGEST:
        raise DriverRefused(f"What lets this site link is larger than {LARGEST} bytes. {_AGAIN}")
    try:
        # Not by libyaml, whose loader takes the process down where brackets are nested deep enough.
        found = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, RecursionError, ValueError):
        raise DriverRefused(f"What lets this site link is not YAML; it may be cut. {_AGAIN}") from None
    by_kind = {str(one.get("kind")): one for one in found if isinstance(one, dict)}
    if set(by_kind) == {"AccessToken"} and len(found) == 1:
        return _access_token(by_kind["AccessToken"])
    if set(by_kind) == {"Link", "Secret"} and len(found) == 2:
        return _credentials(by_kind["Link"], by_kind["Secret"])
    raise DriverRefused(f"What lets this site link must be one AccessToken, or one Link with its Secret. {_AGAIN}")


def _access_token(manifest: Mapping[str, object]) -> AccessToken:
    spec = _mapping(manifest, "spec")
    url, code, ca = (str(spec.get(key) or "") for key in ("url", "code", "ca"))
    name = str(_mapping(manifest, "metadata").get("name") or "")
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if manifest.get("apiVersion") != API_VERSION or not valid or not re.fullmatch(r"[!-~]{1,1024}", code):
        raise DriverRefused(f"The AccessToken lacks a valid url or code; it may be cut. {_AGAIN}")
    if "BEGIN CERTIFICATE" not in ca:
        raise DriverRefused(f"The AccessToken has no authority (ca) to trust its grant server by. {_AGAIN}")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
        raise DriverRefused(f"The AccessToken has no valid name. {_AGAIN}")
    return AccessToken(name, url, code, ca, _cost(spec.get("linkCost")))


def _credentials(link: Mapping[str, object], secret: Mapping[str, object]) -> LinkCredentials:
    spec, data = _mapping(link, "spec"), _mapping(secret, "data")
    if spec.get("tlsCredentials") != _mapping(secret, "metadata").get("name"):
        raise DriverRefused(f"The Link does not name its Secret. {_AGAIN}")
    endpoints = spec.get("endpoints")
    if not isinstance(endpoints, list) or not 1 <= len(endpoints) <= MOST_ENDPOINTS:
        raise DriverRefused(f"The Link has no endpoints, or more than {MOST_ENDPOINTS}. {_AGAIN}")
    if not _KEYS.issubset(data) or set(data) - _KEYS - _MORE_KEYS:
        raise DriverRefused(f"The Secret must hold ca.crt, tls.crt and tls.key. {_AGAIN}")
    texts = {str(name): str(value) for name, value in data.items()}
    for name in _KEYS:
        _check_pem(name, texts[name])
    return LinkCredentials(tuple(_endpoint(one) for one in endpoints), texts, _cost(spec.get("cost")))


def _endpoint(value: object) -> Endpoint:
    if not isinstance(value, dict) or value.get("name") not in LINK_ROLES:
        raise DriverRefused(f"The Link has an endpoint that is neither inter-router nor edge. {_AGAIN}")
    host = checked_host(str(value.get("host", "")), "The link's host")
    return Endpoint(str(value["name"]), host, checked_port(value.get("port", ""), "The link's port"))


def _check_pem(name: str, value: str) -> None:
    try:
        pem = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    if b"-----BEGIN " not in pem:
        raise DriverRefused(f"{name} in the Secret is not base64 of PEM; the file may be cut. {_AGAIN}")


def _cost(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000 else 1


def _mapping(manifest: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = manifest.get(key)
    return value if isinstance(value, dict) else {}
