"""Networks that a key may be used from, as people write them."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from redoma_kit.errors import InvalidField

MAX_CIDRS = 64
# The longest that an address and its prefix length can be, IPv4 at the end of IPv6 included.
MAX_CIDR_CHARACTERS = 50
MAPPED_BITS = 96


def check_cidrs(field: str, cidrs: tuple[str, ...]) -> tuple[str, ...]:
    """Gives the networks in their usual form and without repetitions, IPv4 where it is mapped into IPv6.

    Raises:
        InvalidField: There are too many, or one is no network.
    """
    if len(cidrs) > MAX_CIDRS:
        raise InvalidField(field, f"has {len(cidrs)} networks; the most is {MAX_CIDRS}.")
    return tuple(dict.fromkeys(str(_network(f"{field}[{index}]", text)) for index, text in enumerate(cidrs)))


def _network(field: str, text: str) -> IPv4Network | IPv6Network:
    if len(text) > MAX_CIDR_CHARACTERS or "%" in text:
        raise _no_network(field)
    try:
        network = ip_network(text, strict=False)
        address = ip_address(text.partition("/")[0])
    except ValueError:
        raise _no_network(field) from None
    if network.network_address != address:
        raise InvalidField(field, f"has bits set beyond its length; did you mean {network}?")
    return _unmapped(network)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))


def _no_network(field: str) -> InvalidField:
    return InvalidField(field, "is no network such as 203.0.113.0/24 or 2001:db8::/32.")
