"""Who calls, where the peer of a connection is a proxy that others call through.

A service knows its peer by the certificate. Where that is a proxy of its own site, which ends the caller's TLS and
opens its own, the caller is whom the proxy names in `x-forwarded-client-cert`. Nobody else is believed: whoever is no
forwarder is the caller, whatever the header says.
"""

import re
from collections.abc import Collection, Iterator, Sequence

FORWARDED_CLIENT_CERT = "x-forwarded-client-cert"
# By, hash and URI of two short names, with room to spare.
MAX_HEADER_CHARACTERS = 2_048
SPIFFE_ID = re.compile(r"spiffe://redoma/[a-z][a-z0-9-]{0,39}/[a-z][a-z0-9-]{0,39}")
# A value with a comma, a semicolon or an equals sign stands in quotes, and quotes within it after a backslash.
_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;=\\\s]*))')
_KEYS = frozenset({"by", "hash", "cert", "chain", "subject", "uri", "dns"})
# A proxy's certificate may have several URI names, and a caller's several DNS names.
_REPEATED = frozenset({"by", "dns"})


class CallerUnclear(Exception):
    """A forwarder says of the caller what can't be relied on."""


class Callers:
    """Tells callers by their peers and by what `forwarders`, SPIFFE ids, say of them."""

    __slots__ = ("_forwarders",)

    def __init__(self, forwarders: Collection[str]) -> None:
        self._forwarders = frozenset(forwarders)

    def caller(self, peer: str, forwarded: Sequence[str | bytes]) -> str:
        """Gives the SPIFFE id of the caller; empty where a forwarder names none, as in its own health probes.

        Args:
            peer: The SPIFFE id in the peer's certificate.
            forwarded: The values of `x-forwarded-client-cert` that came with the call.

        Raises:
            CallerUnclear: A forwarder names none, several, or one in another form than Envoy's.
        """
        if peer not in self._forwarders:
            return peer
        if not forwarded:
            return ""
        if len(forwarded) != 1 or not isinstance(forwarded[0], str):
            raise CallerUnclear()
        return forwarded_caller(forwarded[0])


def forwarded_caller(header: str) -> str:
    """Reads the one URI out of the one element of an `x-forwarded-client-cert` header as Envoy writes it.

    Raises:
        CallerUnclear: It is anything else.
    """
    if len(header) > MAX_HEADER_CHARACTERS:
        raise CallerUnclear()
    names: list[str] = []
    seen: set[str] = set()
    for key, value in _pairs(header):
        if key not in _KEYS or (key in seen and key not in _REPEATED):
            raise CallerUnclear()
        seen.add(key)
        if key == "uri":
            names.append(value)
    if len(names) != 1 or not SPIFFE_ID.fullmatch(names[0]):
        raise CallerUnclear()
    return names[0]


def _pairs(header: str) -> Iterator[tuple[str, str]]:
    """Gives the keys, in lower case, and the values of one element; raises CallerUnclear where there are more."""
    end = 0
    while True:
        found = _PAIR.match(header, end)
        if found is None:
            raise CallerUnclear()
        key, quoted, plain = found.groups()
        yield key.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        end = found.end()
        if end == len(header):
            return
        if header[end] != ";":
            raise CallerUnclear()
        end += 1
