"""What counts as an outage: from a caller's first failure to its first answer after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.outage import Outage, Visit, outage_of
from tests.bench.recovery import recovery_s


def visits(outcomes: str) -> list[Visit]:
    """Gives calls of a second each, one right after the other; `x` is one that failed."""
    return [Visit(float(place), place + 1.0, outcome != "x") for place, outcome in enumerate(outcomes)]


def test_nothing_failed_is_no_outage() -> None:
    assert outage_of(visits("....")) is None


def test_recovery_is_from_the_first_failure_to_the_first_answer_after_it() -> None:
    assert outage_of(visits("..xxx..")) == Outage(3.0, 0.0, 3)


def test_failures_after_the_first_answer_do_not_pass_for_recovered() -> None:
    assert outage_of(visits("xx.x..x..")) == Outage(2.0, 4.0, 4)


def test_a_caller_that_nobody_answered_again_has_no_recovery() -> None:
    with pytest.raises(ValueError, match="nothing was answered"):
        outage_of(visits("..xx"))


@given(st.text(".x", max_size=30))
def test_an_outage_holds_every_failure_and_no_more_time_than_passed(outcomes: str) -> None:
    outage = outage_of(visits(outcomes + "."))
    assert (outage is None) == ("x" not in outcomes)
    if outage is not None:
        assert outage.failures == outcomes.count("x")
        assert 0 < outage.recovery_s + outage.unsteady_s <= len(outcomes) + 1


def test_a_round_without_a_failure_counts_as_recovered_at_once() -> None:
    assert recovery_s([None, Outage(5.0, 0.0, 1), None]) == 0.0
    assert recovery_s([Outage(1.0, 0.0, 1), Outage(5.0, 0.0, 1), Outage(2.0, 0.0, 1)]) == 2.0
