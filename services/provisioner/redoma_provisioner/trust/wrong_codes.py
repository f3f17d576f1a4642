"""Slows those who guess codes, by the address they call from; a code that is good is never slowed."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from redoma_provisioner.errors import JoinSlowed

WINDOW_S = 60.0
MOST_PER_WINDOW = 10
MAX_SOURCES = 10_000
IPV6_NETWORK_BITS = 64


@dataclass(slots=True)
class _Count:
    began_s: float
    wrong: int = 0


class WrongCodes:
    """Counts wrong codes by source for a minute from the first, in bounded memory."""

    __slots__ = ("_counts", "_monotonic")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def note(self, source: str) -> None:
        """Counts one.

        Raises:
            JoinSlowed: There were too many from the same source.
        """
        now_s = self._monotonic()
        count = self._counts.setdefault(_network_of(source), _Count(now_s))
        if now_s - count.began_s >= WINDOW_S:
            count.began_s, count.wrong = now_s, 0
        count.wrong += 1
        self._counts.move_to_end(_network_of(source))
        while len(self._counts) > MAX_SOURCES:
            self._counts.popitem(last=False)
        if count.wrong > MOST_PER_WINDOW:
            raise JoinSlowed()


def source_of(forwarded_for: str) -> str:
    """Gives the address that the proxy in front saw: the last of `x-forwarded-for`, which callers can't forge."""
    return forwarded_for.rpartition(",")[2].strip()


def _network_of(source: str) -> str:
    """Gives what stands for one caller: an IPv4 address, or the network of an IPv6 one, which has plenty."""
    try:
        address = ip_address(source)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return f"{int(address) >> (128 - IPV6_NETWORK_BITS):x}"
    return str(address)
