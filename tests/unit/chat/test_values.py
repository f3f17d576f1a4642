"""The small values of the chat service: ids, page tokens, titles, branches, sampling, deadlines, error trailers."""

import random
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_chat.branch import MAX_BYTES, MAX_TURNS, BranchEntry, first_kept
from redoma_chat.conversations import title_from
from redoma_chat.deadline import Deadline
from redoma_chat.ids import IdSource
from redoma_chat.inference import Role
from redoma_chat.openai.errors import MAX_TRAILER_BYTES, openai_error_trailer
from redoma_chat.sampling import Sampling
from redoma_kit.errors import Failure, InvalidField
from redoma_kit.pages import page_position, page_token


def test_ids_grow_also_within_a_millisecond_and_when_the_clock_goes_back() -> None:
    times = iter([10.0] * 5000 + [9.0] * 5)
    ids = IdSource(lambda: next(times))
    made = [ids.new() for _ in range(5005)]
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {32}


def test_id_is_greater_than_its_parents_from_a_fast_clock() -> None:
    ahead = IdSource(lambda: 2_000_000_000.0, random.Random(1).getrandbits).new()
    ids = IdSource(lambda: 1_000.0)
    child = ids.new(after=ahead)
    assert child > ahead
    assert ids.new() > child


def test_ids_of_one_moment_differ_in_62_random_bits() -> None:
    made = {IdSource(lambda: 1.0).new()[16:] for _ in range(100)}
    assert len(made) == 100


@given(st.integers(0, 2**63 - 1), st.text("0123456789abcdef", max_size=32))
def test_page_token_gives_its_position_back(number: int, last_id: str) -> None:
    token = page_token(("list", "a"), (number, last_id))
    assert page_position(token, ("list", "a"), (int, str)) == (number, last_id)
    with pytest.raises(InvalidField):
        page_position(token, ("list", "b"), (int, str))
    with pytest.raises(InvalidField):
        page_position(token, ("list", "a"), (str, int))


@given(st.text(max_size=80))
def test_no_text_breaks_the_page_token_reader(token: str) -> None:
    if token:
        with pytest.raises(InvalidField):
            page_position(token, ("list",), (int, str))


def test_page_position_out_of_the_databases_range_is_refused() -> None:
    for number in (-1, 2**63, True):
        with pytest.raises(InvalidField):
            page_position(page_token(("a",), (number,)), ("a",), (int,))


@pytest.mark.parametrize(
    ("content", "title"),
    [("Hi", "Hi"), ("\n  a \t b\nc", "a b"), ("", ""), (" \n ", ""), ("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…")],
)
def test_title_is_the_first_line_cut(content: str, title: str) -> None:
    assert title_from(content) == title


def branch(*characters: int) -> list[BranchEntry]:
    roles = (Role.USER, Role.ASSISTANT)
    return [BranchEntry(str(index), roles[index % 2], size) for index, size in enumerate(characters)]


def test_branch_that_fits_is_kept_whole() -> None:
    assert first_kept(branch(*[10] * 50)) == 0


def test_too_many_messages_lose_the_oldest_and_begin_with_the_users() -> None:
    entries = branch(*[1] * (MAX_TURNS * 2 + 1))
    first = first_kept(entries)
    assert len(entries) - first < MAX_TURNS
    assert entries[first].role is Role.USER


def test_too_much_text_loses_the_oldest_but_never_the_last() -> None:
    entries = branch(MAX_BYTES, 5, 5)
    assert first_kept(entries) == 2
    assert first_kept(branch(MAX_BYTES * 2)) == 0


def test_override_takes_what_is_said_and_keeps_the_rest() -> None:
    mine = Sampling(temperature=0.5, top_k=5, stop=("a",), logit_bias={1: 2.0}, logprobs=True, top_logprobs=3)
    other = Sampling(temperature=0.0, seed=0, stop=("b",), ignore_eos=True)
    both = mine.overridden_by(other)
    assert (both.temperature, both.top_k, both.seed, both.stop) == (0.0, 5, 0, ("b",))
    assert (both.ignore_eos, both.logit_bias, both.logprobs, both.top_logprobs) == (True, {1: 2.0}, True, 3)


def test_deadline_leaves_the_model_less_than_the_caller() -> None:
    now = [100.0]
    deadline = Deadline(110.0, lambda: now[0])
    assert deadline.remaining_s < 10
    assert not deadline.passed
    now[0] = 111.0
    assert deadline.remaining_s > 0
    assert deadline.passed


def trailer(message: str, method: str = "/redoma.chat.v1.OpenAIService/Ask") -> Any:
    call: Any = SimpleNamespace(method=method)
    failure = Failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, {"model": "x"})
    return dict(openai_error_trailer(call, failure))


def test_error_trailer_is_ascii_and_bounded() -> None:
    value = trailer("é\n\r\0💥" * 5_000)["redoma-openai-error"]
    assert len(value) <= MAX_TRAILER_BYTES
    assert value.isascii()
    assert value.isprintable()
    assert '"code":"model_not_found"' in unquote(value)
    assert trailer("x", "/redoma.chat.v1.ChatService/SendMessage") == {}
