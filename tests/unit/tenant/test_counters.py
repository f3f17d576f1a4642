"""Counters and holds: periods begin anew, and what is held becomes what is used."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_tenant.limits import NO_LIMITS, Limits
from redoma_tenant.meter.counters import Amount, Counters, Period
from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.periods import day_end, day_of, hour_of, month_end, month_of
from redoma_tenant.meter.reservation import Caller, Reservation
from redoma_tenant.meter.shortage import shortage, worst
from redoma_tenant.meter.warnings import reached_percent

NEW_YEARS_EVE = datetime(2030, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
NOW = datetime(2031, 5, 5, 12, tzinfo=UTC)


def test_periods_end_where_the_next_begins() -> None:
    new_year = datetime(2031, 1, 1, tzinfo=UTC)
    assert day_end(NEW_YEARS_EVE) == month_end(NEW_YEARS_EVE) == new_year
    assert day_of(new_year) == day_of(NEW_YEARS_EVE) + 1
    assert month_of(new_year) == month_of(NEW_YEARS_EVE) + 1
    assert hour_of(NEW_YEARS_EVE) == datetime(2030, 12, 31, 23, tzinfo=UTC)
    assert month_end(datetime(2031, 11, 30, tzinfo=UTC)) == datetime(2031, 12, 1, tzinfo=UTC)


def test_a_new_period_begins_with_nothing_and_a_clock_behind_turns_none_back() -> None:
    amount = Amount(5, 50)
    counters = Counters().at(NEW_YEARS_EVE)
    counters = counters.plus(amount, amount, counters.period, NO_LIMITS, NEW_YEARS_EVE)
    later = counters.at(NEW_YEARS_EVE + timedelta(seconds=1))
    assert (later.day_used_tokens, later.month_held_tokens, later.month_used_nanos) == (0, 0, 0)
    assert later.held_tokens == 5
    assert later.at(NEW_YEARS_EVE) == later
    # What the old year's call lets go was not of the new year.
    assert later.plus(amount, Amount(-5, -50), counters.period, NO_LIMITS, NOW).held_tokens == 0
    assert later.plus(amount, Amount(-5, -50), counters.period, NO_LIMITS, NOW).month_used_tokens == 0


def test_waiting_for_running_calls_is_shorter_than_for_the_next_period() -> None:
    limits = Limits(tokens_per_day=100)
    counters = Counters().at(NOW)
    held = counters.plus(Amount(), Amount(80), counters.period, limits, NOW)
    used = counters.plus(Amount(80), Amount(), counters.period, limits, NOW)
    assert [one.retry_after_s for one in held.amount_shortages(limits, Amount(30), NOW)] == [1.0]
    assert [one.retry_after_s for one in used.amount_shortages(limits, Amount(30), NOW)] == [12 * 3600]
    assert [one.retry_after_s for one in used.amount_shortages(limits, Amount(101), NOW)] == [None]


def test_the_worst_shortage_is_the_one_that_lasts_longest() -> None:
    short, long, forever = (shortage("x", 1, 0, 1, wait) for wait in (1.0, 9.0, None))
    assert worst([short, long]) == long
    assert worst([short, forever, long]) == forever
    assert shortage("x", 1, -5, 1, None).remaining == 0


@pytest.mark.parametrize(
    ("used", "limit", "percent"), [(79, 100, 0), (80, 100, 80), (94, 100, 80), (95, 100, 95), (500, 100, 95), (0, 0, 0)]
)
def test_the_highest_threshold_that_is_reached_is_told(used: int, limit: int, percent: int) -> None:
    assert reached_percent(used, limit, (80, 95)) == percent


@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700), st.integers(0, 700)), max_size=8),
    st.tuples(st.integers(0, 5_000), st.integers(0, 5_000), st.integers(0, 5_000)),
)
def test_a_hold_covers_what_may_still_be_used_and_never_grows(
    input_tokens: int, output_tokens: int, told: list[tuple[int, int, int]], micros: tuple[int, int, int]
) -> None:
    price = Price(micros[0], min(micros[:2]), micros[2])
    bound = price.cost_nanos(TokenCounts(input_tokens=input_tokens, output_tokens=output_tokens))
    call = Reservation(
        token_id="a",
        caller=Caller("", "", "", ""),
        model="",
        price=price,
        reserved_input_tokens=input_tokens,
        granted_output_tokens=output_tokens,
        held=Amount(input_tokens + output_tokens, bound),
        create_time=NOW,
        lapse_time=NOW,
        period=Period(0, 0),
    )
    for counts in (TokenCounts.told(*one, 0) for one in told):
        counts = TokenCounts.told(
            min(counts.input_tokens, input_tokens),
            counts.cached_input_tokens,
            min(counts.output_tokens, output_tokens),
            0,
        )
        former, call = call, call.counted(counts)
        assert call.counts.tokens + call.held.tokens == input_tokens + output_tokens
        assert call.held.nanos <= former.held.nanos + max(0, former.cost_nanos - call.cost_nanos)
        last = call.counts.at_least(TokenCounts(input_tokens=input_tokens, output_tokens=output_tokens))
        assert price.cost_nanos(last) <= call.cost_nanos + call.held.nanos <= bound
