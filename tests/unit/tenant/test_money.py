"""What tokens cost: never less than they do, and never more than what was held for them."""

from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from redoma_tenant.meter.counts import MAX_TOKENS, TokenCounts
from redoma_tenant.meter.money import FREE, Price
from redoma_tenant.meter.prices import PriceList

MICROS = st.integers(0, 10**10)
TOKENS = st.integers(0, MAX_TOKENS)
PRICES = st.tuples(MICROS, MICROS, MICROS).map(lambda micros: Price(micros[0], min(micros[:2]), micros[2]))
COUNTS = st.tuples(TOKENS, TOKENS, TOKENS).map(lambda tokens: TokenCounts.told(*tokens, 0))


@given(PRICES, COUNTS)
def test_cost_is_rounded_up_to_a_billionth(price: Price, counts: TokenCounts) -> None:
    exact = (
        Fraction(counts.input_tokens - counts.cached_input_tokens) * price.input_micros
        + Fraction(counts.cached_input_tokens) * price.cached_input_micros
        + Fraction(counts.output_tokens) * price.output_micros
    ) / 1_000
    assert exact <= price.cost_nanos(counts) < exact + 1
    assert price.cost_nanos(counts) < 2**63


@given(PRICES, st.integers(0, 10**15), st.integers(0, 10_000))
def test_what_is_affordable_is_and_one_more_is_not(price: Price, nanos: int, input_tokens: int) -> None:
    tokens = price.output_tokens_for(nanos, input_tokens)
    if tokens is None:
        assert price.cost_nanos(TokenCounts(input_tokens=input_tokens)) <= nanos
        return
    assume(tokens >= 0)
    assert price.cost_nanos(TokenCounts(input_tokens=input_tokens, output_tokens=tokens)) <= nanos
    assert price.cost_nanos(TokenCounts(input_tokens=input_tokens, output_tokens=tokens + 1)) > nanos


@given(PRICES, PRICES, COUNTS)
def test_the_dearest_of_two_is_no_cheaper_than_either(one: Price, other: Price, counts: TokenCounts) -> None:
    plain = TokenCounts(input_tokens=counts.input_tokens, output_tokens=counts.output_tokens)
    dearest = one.dearest(other).cost_nanos(plain)
    assert dearest >= max(one.cost_nanos(counts), other.cost_nanos(counts))


def test_a_model_of_an_unknown_name_is_held_at_the_dearest_price_and_costs_its_own() -> None:
    prices = PriceList({"m": Price(5, 5, 5), "dear": Price(9, 0, 1), "*": Price(1, 1, 8)})
    assert prices.at_most("m") == Price(5, 5, 5)
    for name in ("", "alias"):
        held = prices.at_most(name)
        assert held == Price(9, 5, 8)
        assert prices.of_answer(name, "m", held) == Price(5, 5, 5)
        assert prices.of_answer(name, "other", held) == Price(1, 1, 8)
        assert prices.of_answer(name, "", held) == held
    assert prices.of_answer("m", "dear", Price(2, 2, 2)) == Price(2, 2, 2)
    assert PriceList().at_most("m") == PriceList({"x": Price(1)}).of_answer("", "m", Price(1)) == FREE


def test_counts_that_can_not_be_are_brought_within_what_can() -> None:
    assert TokenCounts.told(-1, 5, 3, 9) == TokenCounts(0, 0, 3, 3)
    assert TokenCounts.told(10**12, 10**12, 1, 0) == TokenCounts(MAX_TOKENS, MAX_TOKENS, 1, 0)
