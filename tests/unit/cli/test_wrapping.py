"""Streamed text is wrapped between words, whatever the pieces it comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from redoma_cli.wrapping import WordWrap


def wrap(pieces: list[str], width: int) -> str:
    wrapping = WordWrap(width)
    return "".join(wrapping.feed(piece) for piece in pieces) + wrapping.flush()


@pytest.mark.parametrize(
    ("pieces", "wrapped"),
    [
        (["one two", " three"], "one two \nthree"),
        (["on", "e tw", "o thr", "ee"], "one two \nthree"),
        (["a\n\n  indented"], "a\n\n  \nindented"),
        (["abcdefghijkl"], "abcdefghij\nkl"),
        (["字字字 字字字"], "字字字 \n字字字"),
    ],
)
def test_words_stay_whole(pieces: list[str], wrapped: str) -> None:
    assert wrap(pieces, 10 if "indented" not in pieces[0] else 9) == wrapped


@given(st.lists(st.text(alphabet="ab 字\n", max_size=9)), st.integers(4, 12))
def test_no_line_is_too_long_and_no_character_is_lost(pieces: list[str], width: int) -> None:
    wrapped = wrap(pieces, width)
    assert all(cell_len(line) <= width + 1 for line in wrapped.split("\n"))
    assert "".join(wrapped.split()) == "".join("".join(pieces).split())
