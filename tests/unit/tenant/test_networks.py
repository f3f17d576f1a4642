"""Networks as people write them are kept in one form, and nothing else is let in."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_kit.errors import InvalidField
from redoma_tenant.networks import check_cidrs

NETWORKS = st.one_of(
    st.builds(
        lambda bits, length: IPv4Network((bits, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
    ),
    st.builds(
        lambda bits, length: IPv6Network((bits, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
)


def as_caller_has_it(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Gives the address as sources are compared: IPv4 where it is mapped into IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@given(NETWORKS)
def test_a_network_holds_the_same_addresses_in_the_form_that_is_kept(network: IPv4Network | IPv6Network) -> None:
    (kept,) = check_cidrs("f", (str(network),))
    for address in (network.network_address, network.broadcast_address):
        seen = as_caller_has_it(address)
        if seen.version == ip_network(kept).version:
            assert seen in ip_network(kept)
    assert check_cidrs("f", (kept,)) == (kept,)


def outcome(text: str) -> str:
    """Gives the network that is kept, or the field that is refused."""
    try:
        return check_cidrs("f", (text,))[0]
    except InvalidField as error:
        return error.metadata["field"]


@given(st.text(max_size=60))
def test_any_text_is_a_network_or_is_refused_by_its_place(text: str) -> None:
    kept = outcome(text)
    assert kept == "f[0]" or str(ip_network(kept)) == kept


@given(st.lists(NETWORKS.map(str), max_size=64))
def test_repetitions_are_kept_once_in_the_order_given(cidrs: list[str]) -> None:
    kept = check_cidrs("f", tuple(cidrs))
    assert len(set(kept)) == len(kept)
    assert kept == tuple(dict.fromkeys(kept_alone for text in cidrs for kept_alone in check_cidrs("f", (text,))))


def test_bits_beyond_the_length_are_told_with_what_was_meant() -> None:
    with pytest.raises(InvalidField, match=r"did you mean 203\.0\.113\.0/24\?"):
        check_cidrs("f", ("203.0.113.7/24",))


@pytest.mark.parametrize("text", ["1", "0x7f.1", "127.1", "10.0.0.0/8/8", " 10.0.0.0/8", "10.0.0.0/-1", "::1%lo", "/8"])
def test_what_some_programs_take_for_an_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        check_cidrs("f", (text,))


def test_mapped_addresses_are_their_ipv4_ones() -> None:
    assert check_cidrs("f", ("::ffff:198.51.100.4",)) == ("198.51.100.4/32",)
    assert ip_address("198.51.100.4") in ip_network("198.51.100.4/32")
