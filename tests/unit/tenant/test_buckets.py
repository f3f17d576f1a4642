"""Buckets by the minute: exact where they can be, and never generous."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_tenant.meter import bucket

NOW = 1_750_000_000_000_000
MINUTE = bucket.MINUTE_US


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 59, 60, 997, 1_000])
def test_as_many_as_the_size_fit_at_once_and_no_more(size: int) -> None:
    full_us = 0
    for taken in range(size):
        assert bucket.left(full_us, size, NOW) == size - taken
        full_us = bucket.take(full_us, size, 1, NOW)
    assert bucket.left(full_us, size, NOW) == 0
    wait_us = bucket.wait_us(full_us, size, 1, NOW)
    assert wait_us is not None
    assert wait_us == pytest.approx(MINUTE / size, abs=2_000)
    assert bucket.left(full_us, size, NOW + wait_us) >= 1


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_batch_that_fits_is_there_and_one_that_does_not_never_is(size: int, amount: int) -> None:
    wait_us = bucket.wait_us(0, size, amount, NOW)
    assert wait_us == (0 if amount <= size else None)


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 10**6)), max_size=30),
)
def test_no_span_of_time_gives_more_than_the_size_and_what_flows_in(size: int, attempts: list[tuple[int, int]]) -> None:
    now_us, full_us, given_out = NOW, 0, []
    for pause_us, amount in attempts:
        now_us += pause_us
        if bucket.left(full_us, size, now_us) >= amount:
            full_us = bucket.take(full_us, size, amount, now_us)
            given_out.append((now_us, amount))
    for first, (begin_us, _) in enumerate(given_out):
        total = 0
        for time_us, amount in given_out[first:]:
            total += amount
            # Less than one unit early.
            assert total * MINUTE < size * (MINUTE + time_us - begin_us) + MINUTE


@given(st.integers(1, 10**9), st.integers(1, 10**7), st.integers(1, 10**7))
def test_after_the_wait_it_is_there(size: int, before: int, amount: int) -> None:
    full_us = bucket.take(0, size, min(before, size), NOW)
    wait_us = bucket.wait_us(full_us, size, amount, NOW)
    if wait_us is None:
        assert amount > size
    else:
        assert bucket.left(full_us, size, NOW + wait_us) >= amount


def test_an_empty_bucket_gives_nothing_ever() -> None:
    assert bucket.left(0, 0, NOW) == 0
    assert bucket.wait_us(0, 0, 1, NOW) is None
    assert bucket.take(5, 0, 1, NOW) == 5


def test_a_minute_later_all_is_back() -> None:
    full_us = bucket.take(0, 1_000, 1_000, NOW)
    assert bucket.left(full_us, 1_000, NOW + MINUTE // 2) == 500
    assert bucket.left(full_us, 1_000, NOW + MINUTE) == 1_000
