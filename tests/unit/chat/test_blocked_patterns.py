"""Blocked patterns: however an answer is cut into deltas, nothing blocked passes and nothing else is lost."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_chat.checks.blocked_patterns import MASK, BlockedPatterns, MaskStream, RefuseStream, fold
from redoma_chat.checks.chain import BlockedPattern, Passage

PATTERNS = st.lists(st.text("abÉé", min_size=1, max_size=4), min_size=1, max_size=4)
PIECES = st.lists(st.text("abABÉéx", max_size=4), max_size=12)


def masked(text: str, patterns: list[str]) -> str:
    """Replaces from left to right, the longest where several begin together."""
    longest_first = sorted(patterns, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), MASK, text, flags=re.IGNORECASE)


@given(PATTERNS, PIECES)
def test_masking_in_pieces_is_masking_the_whole(patterns: list[str], pieces: list[str]) -> None:
    stream = MaskStream([fold(pattern) for pattern in patterns], "")
    out = "".join(stream.feed(piece) for piece in pieces) + stream.flush()
    assert out == masked("".join(pieces), patterns)


@given(PATTERNS, PIECES)
def test_refusing_in_pieces_lets_no_pattern_pass_and_nothing_else_stop(patterns: list[str], pieces: list[str]) -> None:
    folded = [fold(pattern) for pattern in patterns]
    stream = RefuseStream(folded, "")
    out = "".join(stream.feed(piece) for piece in pieces) + stream.flush()
    whole = "".join(pieces)
    holds_one = any(pattern in fold(whole) for pattern in folded)
    assert stream.refused is holds_one
    assert whole.startswith(out)
    assert not any(pattern in fold(out) for pattern in folded)
    assert holds_one or out == whole


@given(PATTERNS, PIECES, PIECES)
def test_continuation_is_as_safe_as_one_answer(patterns: list[str], before: list[str], after: list[str]) -> None:
    folded = [fold(pattern) for pattern in patterns]
    already = "".join(before)
    if any(pattern in fold(already) for pattern in folded):
        return
    refuse, mask = RefuseStream(folded, already), MaskStream(folded, already)
    refused = already + "".join(refuse.feed(piece) for piece in after) + refuse.flush()
    remasked = already + "".join(mask.feed(piece) for piece in after) + mask.flush()
    # The mask itself may hold letters of a pattern.
    for out in (refused, remasked.replace(MASK, "\0")):
        assert not any(pattern in fold(out) for pattern in folded)
    assert refuse.refused is any(pattern in fold(already + "".join(after)) for pattern in folded)


@pytest.mark.parametrize(
    ("pattern", "text"), [("straße", "STRAẞE"), ("ÉCOLE", "école"), ("σας", "ΣΑΣ"), ("ﬃ", "ﬃ"), ("İx", "İX")]
)
def test_case_is_ignored_also_beyond_ascii(pattern: str, text: str) -> None:
    stream = MaskStream([fold(pattern)], "")
    assert stream.feed(f"a{text}b") + stream.flush() == f"a{MASK}b"


@given(st.text())
def test_folding_keeps_positions(text: str) -> None:
    assert len(fold(text)) == len(text)


def test_text_that_cannot_become_a_match_is_not_held_back() -> None:
    stream = MaskStream(["swordfish"], "")
    assert [stream.feed(piece) for piece in ("hello ", "s", "word", "s")] == ["hello ", "", "", "sword"]


async def test_reasoning_is_over_when_text_comes_and_still_watched() -> None:
    output = BlockedPatterns([BlockedPattern("abc", masks=False)]).output_filter(Passage())
    assert output is not None
    assert output.feed(Passage(reasoning="xab")) == Passage("", "x")
    assert output.feed(Passage(text="t")) == Passage("t", "ab")
    output.feed(Passage(reasoning="c"))
    assert output.refused
