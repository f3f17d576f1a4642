"""Names, hosts and ports as every part of Skupper takes them.

Skupper's CLI writes files for names such as "../../up" and starts sites with port 70000, so all is checked here first.
"""

import hashlib
import ipaddress
import re

from redoma_provisioner.network.driver import DriverRefused

LONGEST_LABEL = 63
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_ROUTING_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,126}[A-Za-z0-9])?")
_DIGEST_LENGTH = 8


def checked_label(text: str, what: str) -> str:
    """Gives back a label of RFC 1123: lower-case letters, digits and hyphens, at most 63.

    Raises:
        DriverRefused: It is none; the message names `what`.
    """
    if not _LABEL.fullmatch(text):
        raise DriverRefused(
            f"{what} {_shown(text)} is not valid: use lower-case letters, digits and hyphens, "
            f"at most {LONGEST_LABEL}, with a letter or digit at both ends."
        )
    return text


def checked_host(text: str, what: str) -> str:
    """Gives back an IP address or a host name.

    Raises:
        DriverRefused: It is neither; the message names `what`.
    """
    if _is_address(text) or (len(text) <= 253 and _HOST.fullmatch(text)):
        return text
    raise DriverRefused(f"{what} {_shown(text)} is not valid: give an IP address or a host name in lower case.")


def checked_port(number: object, what: str) -> int:
    """Gives back a port from 1 to 65535, from a number or its digits.

    Raises:
        DriverRefused: It is none; the message names `what`.
    """
    text = str(number)
    if isinstance(number, bool) or not (text.isascii() and text.isdigit()) or not 1 <= int(text[:8]) <= 65_535:
        raise DriverRefused(f"{what} {_shown(text)} is not valid: give a port from 1 to 65535.")
    return int(text)


def checked_routing_key(text: str) -> str:
    """Gives back a routing key.

    Raises:
        DriverRefused: It holds what a router's address should not.
    """
    if not _ROUTING_KEY.fullmatch(text):
        raise DriverRefused(f"The routing key {_shown(text)} is not valid: use letters, digits, '.', '-' and '_'.")
    return text


def split_address(address: str, what: str) -> tuple[str, int]:
    """Takes "HOST:PORT" or "[IPv6]:PORT" apart.

    Raises:
        DriverRefused: It is neither; the message names `what`.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise DriverRefused(f"{what} {_shown(address)} is not valid: give HOST:PORT.")
    return checked_host(host.removeprefix("[").removesuffix("]"), what), checked_port(port, what)


def joined_address(host: str, port: int) -> str:
    """Gives "HOST:PORT", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def object_name(key: str) -> str:
    """Gives the name of the resource that stands for a key such as "hospital-a.model-0": a label, one for each key.

    Names of system sites hold no dots, and "a-b.c" must not meet "a.b-c", so a digest of the key follows.
    """
    if _LABEL.fullmatch(key) and len(key) <= LONGEST_LABEL - _DIGEST_LENGTH - 1:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_LENGTH]
    slug = re.sub(r"[^a-z0-9]+", "-", key.lower())[: LONGEST_LABEL - _DIGEST_LENGTH - 1].strip("-")
    return checked_label(f"{slug}-{digest}" if slug else f"x-{digest}", "The name")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _shown(text: str) -> str:
    return repr(text[:80])
