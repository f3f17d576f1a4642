"""Where a request comes from, as far as the edge can be believed."""

from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


def source_of(forwarded_for: str, peer: str, trusted_hops: int) -> str:
    """Gives the caller's address as text.

    The edge adds whom it sees to the end of `x-forwarded-for`, so what stands there can't be made up. With proxies of
    ours before it, `trusted_hops` of them, the caller is as many places further to the front. Without the header it
    is `peer`.
    """
    hops = [hop.strip() for hop in forwarded_for.split(",")] if forwarded_for else []
    return hops[-1 - trusted_hops] if len(hops) > trusted_hops else hops[0] if hops else peer


def parse_address(text: str) -> Address | None:
    """Gives the address, IPv4 where it is that in IPv6's clothes; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
