"""The virtual token counters: what is charged, who is lifted when, and that idle tenants cost a bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.fair_share import MAX_IDLE, Account, FairShare


def test_a_counter_grows_by_weighted_tokens_over_the_tenants_weight() -> None:
    fair = FairShare()
    light, heavy = fair.join("light", 1), fair.join("heavy", 4)
    light.charge(100, 10)
    heavy.charge(100, 10)
    assert light.counter == 120
    assert heavy.counter == 30
    assert (light.output_tokens, heavy.output_tokens) == (10, 10)


def test_a_tenant_is_counted_in_once_for_all_its_requests() -> None:
    fair = FairShare()
    first = fair.join("a", 1)
    assert fair.join("a", 3) is first
    assert (first.requests, first.weight) == (2, 3)
    fair.leave(first)
    assert "a" in fair.active
    fair.leave(first)
    assert "a" not in fair.active


def test_who_comes_back_starts_no_lower_than_the_poorest_at_work() -> None:
    fair = FairShare()
    idle = fair.join("idle", 1)
    fair.leave(idle)
    poor, rich = fair.join("poor", 1), fair.join("rich", 1)
    poor.charge(50, 0)
    rich.charge(500, 0)
    assert fair.join("idle", 1).counter == poor.counter
    assert fair.join("new", 1).counter == poor.counter


def test_who_comes_back_keeps_what_it_was_given_in_advance() -> None:
    fair = FairShare()
    greedy, other = fair.join("greedy", 1), fair.join("other", 1)
    greedy.charge(1_000, 0)
    other.charge(10, 0)
    fair.leave(greedy)
    assert fair.join("greedy", 1).counter == 1_000


def test_with_nobody_at_work_the_next_starts_where_the_last_left() -> None:
    fair = FairShare()
    last = fair.join("last", 1)
    last.charge(700, 0)
    fair.leave(last)
    assert fair.join("next", 1).counter == 700


def test_with_nobody_at_work_a_counter_is_never_lowered() -> None:
    fair = FairShare()
    rich, poor = fair.join("rich", 1), fair.join("poor", 1)
    rich.charge(900, 0)
    poor.charge(20, 0)
    fair.leave(rich)
    fair.leave(poor)
    assert fair.join("rich", 1).counter == 900


def test_idle_tenants_take_bounded_memory_and_the_last_are_kept() -> None:
    fair = FairShare()
    keeper = fair.join("keeper", 1)
    for number in range(MAX_IDLE + 50):
        account = fair.join(f"t{number}", 1)
        account.charge(number, 0)
        fair.leave(account)
    assert len(fair.accounts()) == MAX_IDLE + 1
    assert fair.join("t0", 1).counter == keeper.counter
    assert fair.join(f"t{MAX_IDLE + 49}", 1).counter == MAX_IDLE + 49


def test_a_tenant_that_came_back_is_not_the_next_to_be_forgotten() -> None:
    fair = FairShare()
    fair.join("keeper", 1)
    names = [f"t{number}" for number in range(MAX_IDLE)]
    for name in [*names, names[0]]:
        fair.leave(fair.join(name, 1))
    fair.leave(fair.join("one more", 1))
    known = {account.tenant for account in fair.accounts()}
    assert names[0] in known
    assert names[1] not in known


def test_lift_goes_to_the_lowest_peer_and_never_down() -> None:
    account = Account("a", 1, counter=5)
    account.lift([Account("b", 1, counter=30), Account("c", 1, counter=9)])
    assert account.counter == 9
    account.lift([Account("d", 1, counter=1)])
    assert account.counter == 9
    account.lift([])
    assert account.counter == 9


def test_accounts_are_listed_with_most_service_first() -> None:
    fair = FairShare()
    for name, tokens in (("a", 5), ("b", 50), ("c", 20)):
        fair.join(name, 1).charge(tokens, 0)
    fair.leave(fair.active["b"])
    assert [account.tenant for account in fair.accounts()] == ["b", "c", "a"]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["join", "charge", "leave"]), st.integers(1, 200)), max_size=80
    ),
    st.lists(st.sampled_from([1, 2, 100]), min_size=5, max_size=5),
)
def test_no_join_undercuts_those_at_work_and_no_counter_falls(
    script: list[tuple[int, str, int]], weights: list[int]
) -> None:
    fair = FairShare()
    for who, what, tokens in script:
        name = f"t{who}"
        before = {account.tenant: account.counter for account in fair.accounts()}
        at_work = [account.counter for account in fair.active.values()]
        if what == "join":
            account = fair.join(name, weights[who])
            assert not at_work or account.counter >= min(at_work)
        elif name in fair.active and what == "charge":
            fair.active[name].charge(tokens, tokens // 3)
        elif name in fair.active:
            fair.leave(fair.active[name])
        for account in fair.accounts():
            assert account.counter >= before.get(account.tenant, 0)


@pytest.mark.parametrize("weight", [1, 7])
def test_cost_is_what_charge_adds(weight: int) -> None:
    account = Account("a", weight)
    cost = account.cost(30, 4)
    account.charge(30, 4)
    assert account.counter == cost
