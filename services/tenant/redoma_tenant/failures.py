"""Slows those who guess credentials, by the address they call from; a credential that is good is never slowed.

No tenant and no key can be locked out, since only refusals are delayed or cut short.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

from redoma_tenant.errors import SignInSlowed
from redoma_tenant.sources import Address

WINDOW_S = 60.0
# Failures a minute from which on refusals are delayed, and from which on they are not even that.
SLOWED_FROM, REFUSED_FROM = 10, 60
MAX_DELAY_S = 2.0
# Requests that wait at one time, of all sources; a delay must not cost us what it costs them.
MAX_HELD = 256
MAX_SOURCES = 10_000
IPV6_NETWORK_BITS = 64


@dataclass(slots=True)
class _Count:
    # The window is [began_s, began_s + WINDOW_S); `former` is what came in the one before.
    began_s: float
    now: int = 0
    former: int = 0


class Failures:
    """Counts refused credentials by source in a sliding minute, in bounded memory."""

    __slots__ = ("_counts", "_held", "_monotonic", "_sleep")

    def __init__(self, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[object]]) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._held = 0

    async def slow(self, source: Address | None) -> None:
        """Counts a refusal and waits as long as the source deserves.

        Raises:
            SignInSlowed: There were too many from it, or too many wait.
        """
        rate = self._add(network_of(source))
        if rate <= SLOWED_FROM:
            return
        if rate > REFUSED_FROM or self._held >= MAX_HELD:
            raise SignInSlowed(WINDOW_S)
        self._held += 1
        try:
            await self._sleep(MAX_DELAY_S * (rate - SLOWED_FROM) / (REFUSED_FROM - SLOWED_FROM))
        finally:
            self._held -= 1

    def _add(self, network: str) -> float:
        """Counts one, and gives how many there were in the last minute, about."""
        now_s = self._monotonic()
        count = self._counts.setdefault(network, _Count(now_s))
        self._counts.move_to_end(network)
        while len(self._counts) > MAX_SOURCES:
            self._counts.popitem(last=False)
        passed_s = now_s - count.began_s
        if passed_s >= WINDOW_S:
            count.former = count.now if passed_s < 2 * WINDOW_S else 0
            count.now = 0
            count.began_s += passed_s // WINDOW_S * WINDOW_S
        count.now += 1
        return count.now + count.former * (1 - (now_s - count.began_s) / WINDOW_S)


def network_of(source: Address | None) -> str:
    """Gives what stands for one caller: an IPv4 address, or the network of an IPv6 one, which has plenty."""
    if isinstance(source, IPv6Address):
        return f"{int(source) >> (128 - IPV6_NETWORK_BITS):x}"
    return str(source or "")
