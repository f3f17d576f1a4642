"""Where a request comes from, as far as the edge can be believed."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address
# Callers come back, and each of their requests asks.
MAX_REMEMBERED = 4_096


def source_of(forwarded_for: str, peer: str, trusted_hops: int) -> str:
    """Gives the caller's address as text; empty if it is not known.

    The edge adds whom it sees to the end of `x-forwarded-for`, so what stands there can't be made up. With proxies of
    ours before it, `trusted_hops` of them, the caller is as many places further to the front. Without the header it
    is `peer`, or unknown and empty behind proxies.
    """
    if forwarded_for:
        hops = forwarded_for.split(",")
        text = hops[max(0, len(hops) - 1 - trusted_hops)].strip()
    else:
        text = "" if trusted_hops else peer
    address = parse_address(text)
    return "" if address is None else str(address)


@lru_cache(MAX_REMEMBERED)
def parse_address(text: str) -> Address | None:
    """Gives the address, IPv4 where it is that in IPv6's clothes; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
