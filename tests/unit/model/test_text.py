"""Text that arrives in pieces: characters, stop strings and think sections that span tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_model.engine.text import TextAssembler, held_back


def assemble(
    tokens: list[bytes], stops: tuple[str, ...] = (), may_open: bool = False, inside: bool = False
) -> tuple[str, str, bool]:
    text = TextAssembler(stops, may_open, inside)
    answer = reasoning = ""
    for token in tokens:
        piece = text.feed(token)
        answer += piece.text
        reasoning += piece.reasoning
        if text.stopped:
            break
    rest = text.finish()
    return answer + rest.text, reasoning + rest.reasoning, text.stopped


def single_bytes(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def test_emoji_across_tokens_comes_whole() -> None:
    text = TextAssembler((), may_open=False, in_reasoning=False)
    assert [text.feed(token).text for token in single_bytes("a🌊b")] == ["a", "", "", "", "🌊", "b"]


def test_bytes_that_are_no_character_become_the_replacement() -> None:
    assert assemble([b"a\xff", b"b"])[0] == "a�b"


def test_character_that_never_becomes_whole_is_dropped() -> None:
    assert assemble([b"a", b"\xf0\x9f"])[0] == "a"


def test_stop_string_across_tokens_is_never_given_out() -> None:
    text = TextAssembler(("END",), may_open=False, in_reasoning=False)
    given_out = [text.feed(token).text for token in (b"the E", b"N", b"E", b"N", b"D", b"less")]
    assert given_out[:5] == ["the ", "", "EN", "", ""]
    assert text.stopped
    assert text.finish().text == ""


def test_text_held_for_a_stop_string_comes_at_the_end() -> None:
    assert assemble([b"the E", b"N"], ("END",)) == ("the EN", "", False)


def test_earliest_of_several_stop_strings_wins() -> None:
    assert assemble([b"one two three"], ("three", "two")) == ("one ", "", True)


def test_stop_string_inside_a_longer_one() -> None:
    assert assemble(single_bytes("xaby"), ("aby", "b")) == ("xa", "", True)


@pytest.mark.parametrize("tokens", [["<think>", "why", "</think>", "\n\nso"], list("<think>why</think>\n\nso")])
def test_think_across_tokens_is_reasoning(tokens: list[str]) -> None:
    assert assemble([token.encode() for token in tokens], may_open=True) == ("so", "why", False)


def test_think_that_the_prompt_opened() -> None:
    assert assemble(single_bytes("why</think> so"), inside=True) == ("so", "why", False)


def test_think_is_plain_text_where_the_model_does_not_reason() -> None:
    assert assemble(single_bytes("<think>why")) == ("<think>why", "", False)


def test_think_in_the_middle_of_an_answer_is_plain_text() -> None:
    assert assemble(single_bytes("so <think>why</think>"), may_open=True) == ("so <think>why</think>", "", False)


def test_reasoning_that_never_ends() -> None:
    assert assemble(single_bytes("<think>why</thi"), may_open=True) == ("", "why</thi", False)


def test_stop_string_does_not_count_in_reasoning() -> None:
    tokens = single_bytes("<think>a STOP b</think>c STOP d")
    assert assemble(tokens, ("STOP",), may_open=True) == ("c ", "a STOP b", True)


@given(
    text=st.text("ab🌊X", max_size=40),
    stops=st.lists(st.text("abX", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=80),
)
def test_any_split_gives_the_same_text(text: str, stops: list[str], cuts: list[int]) -> None:
    data = text.encode()
    tokens: list[bytes] = []
    for size in cuts * (len(data) + 1):
        if not data:
            break
        tokens.append(data[:size])
        data = data[size:]
    # The reference reads character by character: the first moment at which some stop string is complete ends it.
    ends = [text[:end] for end in range(1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    first = ends[0] if ends else None
    answer, _, stopped = assemble(tokens, tuple(stops))
    assert stopped == (first is not None)
    if first is None:
        assert answer == text
    else:
        # A token may complete several stop strings at once; the one that begins first wins.
        assert text.startswith(answer)
        assert any(text[len(answer) :].startswith(stop) for stop in stops)
        assert not any(stop in answer for stop in stops)


def test_held_back_counts_the_longest_beginning() -> None:
    assert held_back("xab", ("abc", "bd")) == 2
    assert held_back("abc", ("abc",)) == 0
    assert held_back("", ("a",)) == 0
