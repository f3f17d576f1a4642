"""Limits: whose hold, which change, and how they are kept."""

import pytest

from redoma_kit.errors import InvalidField
from redoma_tenant.limits import LIMIT_NAMES, MAX_LIMIT, NO_LIMITS, Limits, limits_from_json, limits_to_json


def test_own_limits_hold_over_others_one_by_one_and_zero_is_a_limit() -> None:
    own, plan = Limits(tokens_per_day=0, requests_per_minute=5), Limits(tokens_per_day=9, tokens_per_month=8)
    assert own.over(plan) == Limits(tokens_per_day=0, requests_per_minute=5, tokens_per_month=8)
    assert NO_LIMITS.over(plan) == plan
    assert plan.over(NO_LIMITS) == plan


@pytest.mark.parametrize("limits", [NO_LIMITS, Limits(tokens_per_day=0), Limits(1, 2, 3, 4, 5, 6)])
def test_limits_survive_json(limits: Limits) -> None:
    assert limits_from_json(limits_to_json(limits)) == limits


def test_a_change_takes_what_is_named_also_away() -> None:
    former, wanted = Limits(tokens_per_day=1, tokens_per_month=2), Limits(tokens_per_day=7, concurrent_streams=3)
    assert former.changed(wanted, {"limits.tokens_per_month"}) == Limits(tokens_per_day=1)
    assert former.changed(wanted, {"limits"}) == wanted
    assert former.changed(wanted, {"weight"}) == former


@pytest.mark.parametrize("name", LIMIT_NAMES)
def test_limits_out_of_range_are_refused_by_name(name: str) -> None:
    for value in (0, MAX_LIMIT):
        Limits(**{name: value}).check("plan.limits")
    for value in (-1, MAX_LIMIT + 1):
        with pytest.raises(InvalidField) as refused:
            Limits(**{name: value}).check("plan.limits")
        assert refused.value.metadata == {"field": f"plan.limits.{name}"}
