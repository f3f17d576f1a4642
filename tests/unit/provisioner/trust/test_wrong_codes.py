"""Those who guess codes."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_provisioner.errors import JoinSlowed
from redoma_provisioner.trust.wrong_codes import MAX_SOURCES, MOST_PER_WINDOW, WINDOW_S, WrongCodes, source_of


class _Seconds:
    value = 0.0

    def __call__(self) -> float:
        return self.value


def test_one_address_is_slowed_and_another_is_not() -> None:
    codes = WrongCodes(_Seconds())
    for _ in range(MOST_PER_WINDOW):
        codes.note("192.0.2.1")
    with pytest.raises(JoinSlowed):
        codes.note("192.0.2.1")
    codes.note("192.0.2.2")


def test_a_minute_later_it_may_try_again() -> None:
    seconds = _Seconds()
    codes = WrongCodes(seconds)
    for _ in range(MOST_PER_WINDOW):
        codes.note("192.0.2.1")
    seconds.value = WINDOW_S
    codes.note("192.0.2.1")


def test_a_network_of_ipv6_counts_as_one() -> None:
    codes = WrongCodes(_Seconds())
    for host in range(MOST_PER_WINDOW):
        codes.note(str(IPv6Address((0x20010DB8 << 96) + host)))
    with pytest.raises(JoinSlowed):
        codes.note("2001:db8::ffff")
    codes.note("2001:db8:0:1::1")


def test_memory_is_bounded_whatever_comes() -> None:
    codes = WrongCodes(_Seconds())
    for number in range(MAX_SOURCES + 100):
        codes.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(codes._counts) == MAX_SOURCES


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_header_whatever_is_a_defect(header: str) -> None:
    WrongCodes(_Seconds()).note(source_of(header))


def test_what_a_caller_put_into_the_header_itself_does_not_count() -> None:
    assert source_of("6.6.6.6, 192.0.2.1") == "192.0.2.1"
    assert source_of("") == ""
