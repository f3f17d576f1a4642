"""Prompt-lookup drafts: what followed the same three tokens, as many as pay, and held back where they go wrong."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.lookup import MOST_PAUSE, NGRAM, PROBE_EVERY, PromptLookup


def always(chance: float) -> bool:
    return True


def never(chance: float) -> bool:
    return False


def above(least: float) -> Callable[[float], bool]:
    return lambda chance: chance > least


def drafts_until(lookup: PromptLookup, steps: int, settle: Callable[[int], int]) -> list[int]:
    """Asks for one draft a step, settles it with `settle`, and gives the steps that proposed one."""
    proposed = []
    for step in range(steps):
        if drafts := lookup.draft(1, always):
            proposed.append(step)
            lookup.settle(len(drafts), settle(step))
    return proposed


def test_proposes_what_followed_the_same_tokens() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).draft(2, always) == (4, 5)


def test_proposes_what_followed_last() -> None:
    assert PromptLookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1, always) == (5,)


def test_proposes_nothing_that_never_stood_before() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6]).draft(4, always) == ()
    for length in range(NGRAM + 1):
        assert PromptLookup([7] * length).draft(4, always) == ()


def test_a_short_period_goes_on_as_long_as_it_pays() -> None:
    assert PromptLookup([5, 1, 2, 1, 2, 1, 2]).draft(5, always) == (1, 2, 1, 2, 1)
    assert PromptLookup([7, 7, 7, 7]).draft(3, always) == (7, 7, 7)


def test_sees_what_is_appended_to_the_tokens() -> None:
    tokens = [1, 2, 3]
    lookup = PromptLookup(tokens)
    assert lookup.draft(3, always) == ()
    tokens += [4, 1, 2, 3]
    assert lookup.draft(3, always) == (4, 1, 2)


def test_proposes_no_more_than_pays() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    first, second = lookup.acceptance, lookup.acceptance**2
    assert len(lookup.draft(4, above(second))) == 1
    assert len(lookup.draft(4, above(second * first))) == 2


def test_taken_drafts_raise_the_estimate_and_lost_ones_lower_it() -> None:
    lookup = PromptLookup([1] * 9)
    begin = lookup.acceptance
    lookup.settle(4, 4)
    assert lookup.acceptance > begin
    better = lookup.acceptance
    lookup.settle(4, 0)
    assert lookup.acceptance < better


def test_the_estimate_follows_the_chance_of_the_next_draft() -> None:
    lookup = PromptLookup([1] * 9)
    for _ in range(100):
        # One is taken, the second is not: a chance of one half for the next one.
        lookup.settle(6, 1)
    assert 0.45 <= lookup.acceptance <= 0.55


def test_misses_in_a_row_hold_drafts_back_longer_and_longer_up_to_a_bound() -> None:
    steps = drafts_until(PromptLookup([1] * 9), 1_000, lambda step: 0)
    pauses = [later - earlier - 1 for earlier, later in pairwise(steps)]
    assert pauses[:3] == sorted(pauses[:3])
    assert pauses[0] < pauses[2] < pauses[-1] == MOST_PAUSE
    assert max(pauses) == MOST_PAUSE


def test_a_taken_draft_ends_the_pauses() -> None:
    steps = drafts_until(PromptLookup([1] * 9), 300, lambda step: int(step > 100))
    late = [step for step in steps if step > 100 + MOST_PAUSE]
    assert late == list(range(late[0], 300))


def test_where_no_draft_pays_one_is_tried_now_and_then() -> None:
    lookup = PromptLookup([1] * 9)
    sizes = [len(lookup.draft(8, never)) for _ in range(4 * (PROBE_EVERY + 1))]
    assert sum(sizes) == 4
    assert set(sizes) == {0, 1}


@given(
    tokens=st.lists(st.integers(0, 3), max_size=60),
    more=st.lists(st.integers(0, 3), max_size=20),
    most=st.integers(1, 8),
    least=st.floats(0, 1),
    settled=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=20),
)
def test_drafts_are_always_bounded_and_a_quote(
    tokens: list[int], more: list[int], most: int, least: float, settled: list[tuple[int, int]]
) -> None:
    lookup = PromptLookup(tokens)
    for proposed, accepted in settled:
        lookup.settle(proposed, min(proposed, accepted))
        assert 0 <= lookup.acceptance <= 1
    for token in [None, *more]:
        if token is not None:
            tokens.append(token)
        drafts = lookup.draft(most, above(least))
        assert len(drafts) <= most
        if drafts:
            # Of the text with the drafts: one that repeats itself in a short period goes on so.
            text, size = [*tokens, *drafts], NGRAM + len(drafts)
            assert any(text[at : at + size] == text[-size:] for at in range(len(text) - size))


def test_a_text_that_starts_from_bad_guesses_elsewhere_tries_one_now_and_then() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 1, 2, 3], acceptance=0.2)
    tries = [lookup.draft(4, lambda chance: chance > 0.5) for _ in range(40)]
    assert [len(drafts) for drafts in tries if drafts] == [1, 1, 1]
