"""An account: what is decided on use, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from redoma_tenant.limits import AtLimit, Limits
from redoma_tenant.meter.account import WHOLE_TENANT, Account, KeyTerms, TenantTerms
from redoma_tenant.meter.counters import Counters
from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.prices import PriceList
from redoma_tenant.meter.reservation import Caller, ReservationState
from redoma_tenant.meter.told import Certainty, Checkpoint, Ending, Grant, Refusal, Start

NOW = datetime(2030, 5, 5, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
BY_KEY = Caller(f"tenants/acme/apiKeys/{KEY}", KEY, "", "")


def account(limits: Limits, key_limits: Limits | None = None, at_limit: AtLimit = AtLimit.END) -> Account:
    """Gives an empty account."""
    keys = {} if key_limits is None else {KEY: KeyTerms(key_limits)}
    return Account("acme", NOW, TenantTerms(limits, "", at_limit), PriceList(), {WHOLE_TENANT: Counters()}, keys)


def start(token_id: str = "a", input_tokens: int = 10, most: int = 90) -> Start:
    """Gives a call."""
    return Start(token_id, BY_KEY, "m", input_tokens, most)


def test_a_call_heard_of_since_it_was_taken_for_lapsed_is_not_closed() -> None:
    books = account(Limits(tokens_per_day=100))
    books.reserve(start())
    for certainty in (Certainty.LAST_WORD, Certainty.JOURNAL):
        assert books.settle(Ending("a", TokenCounts(10, 0, 5), certainty))
        assert books.reservations["a"].state is ReservationState.OPEN
        assert books.transactions == []
    books.reservations["a"] = replace(books.reservations["a"], settle_time=NOW - timedelta(seconds=20))
    assert books.settle(Ending("a", TokenCounts(10, 0, 5), Certainty.JOURNAL))
    assert books.reservations["a"].state is ReservationState.CLOSED


def test_a_refusal_names_every_limit_in_the_way_and_holds_nothing() -> None:
    books = account(Limits(tokens_per_day=50, concurrent_streams=0), Limits(tokens_per_month=99))
    refusal = books.reserve(start())
    assert isinstance(refusal, Refusal)
    named = {(one.scope.value, one.limit) for one in refusal.shortages}
    assert named == {("tenant", "tokens_per_day"), ("tenant", "concurrent_streams"), ("key", "tokens_per_month")}
    assert (books.opened, books.touched, books.reservations) == (set(), set(), {})


def test_the_smallest_room_of_tenant_and_key_bounds_a_call_without_a_bound() -> None:
    books = account(Limits(tokens_per_day=5_000), Limits(tokens_per_month=300))
    grant = books.reserve(start(most=0))
    assert isinstance(grant, Grant)
    assert grant.granted_output_tokens == 290
    assert {key: one.held_tokens for key, one in books.counters.items()} == {WHOLE_TENANT: 300, KEY: 300}


def test_a_free_model_is_not_refused_for_an_empty_budget() -> None:
    books = account(Limits(budget_micros_per_month=0))
    assert isinstance(books.reserve(start()), Grant)
    books.prices = PriceList({"*": Price(output_micros=1)})
    refusal = books.reserve(start("b"))
    assert isinstance(refusal, Refusal)
    assert refusal.shortages[0].limit == "budget_micros_per_month"


def test_more_is_granted_in_slices_and_only_what_is_asked_for() -> None:
    books = account(Limits(tokens_per_day=5_000))
    books.reserve(start(most=0))
    counts = TokenCounts(10, 0, 1_000)
    assert books.checkpoint(Checkpoint("a", counts, 0)).granted_output_tokens == 1_024
    assert books.checkpoint(Checkpoint("a", counts, 6)).granted_output_tokens == 1_030
    assert books.checkpoint(Checkpoint("a", counts, 9_999)).granted_output_tokens == 2_054
    assert books.counters[WHOLE_TENANT].held_tokens == 1_054
    assert books.counters[WHOLE_TENANT].day_used_tokens == 1_010


def test_what_passes_a_hold_is_booked_all_the_same() -> None:
    books = account(Limits(tokens_per_day=100), at_limit=AtLimit.FINISH)
    books.reserve(start())
    books.settle(Ending("a", TokenCounts(10, 0, 500), Certainty.EXACT))
    assert books.counters[WHOLE_TENANT].day_used_tokens == 510
    assert books.counters[WHOLE_TENANT].held_tokens == 0
    assert [one.counts.output_tokens for one in books.transactions] == [500]
