"""The engine's core on a fake model: how one request begins, streams and ends, and how steps are given to several."""

from itertools import pairwise

import numpy as np
import pytest

from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.stream import Delta, Done, FinishReason, Started
from redoma_model.engine.usage import Ending, TokenCounts
from tests.fakes.driven_core import DrivenCore


def test_a_request_starts_streams_and_ends() -> None:
    driven = DrivenCore()
    reader = driven.submit("say:hello", output=None)
    driven.end_idle()
    started, *deltas, done = reader.events
    assert started == Started(9, 0, 0.0)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert reader.text == "hello"
    assert isinstance(done, Done)
    assert (done.finish_reason, done.output_tokens) == (FinishReason.STOP, 6)
    assert driven.usage.counts["jti-0"] == TokenCounts(9, 0, 6)
    assert driven.usage.endings["jti-0"] == [Ending.STOP]


@pytest.mark.parametrize("asked", [1, 2, 7])
def test_ends_at_its_limit(asked: int) -> None:
    driven = DrivenCore(speculation=True)
    reader = driven.submit("go", output=asked)
    driven.end_idle()
    assert reader.done is not None
    assert (reader.done.finish_reason, reader.done.output_tokens) == (FinishReason.LENGTH, asked)


@pytest.mark.parametrize("speculation", [False, True])
def test_ends_where_the_context_window_ends(speculation: bool) -> None:
    driven = DrivenCore(context_tokens=64, speculation=speculation)
    readers = [driven.submit("x" * 60, output=None), driven.submit("y" * 63, output=None)]
    driven.end_idle()
    assert [reader.done and reader.done.output_tokens for reader in readers] == [4, 1]
    assert [reader.done and reader.done.finish_reason for reader in readers] == [FinishReason.LENGTH] * 2


def test_a_cancelled_request_frees_its_place_at_once() -> None:
    driven = DrivenCore(slots=1)
    first, second = driven.submit("go", output=None), driven.submit("say:x", output=None)
    for _ in range(5):
        driven.step()
    driven.cancel(first)
    driven.cancel(first)
    driven.step()
    assert second.started is not None
    driven.end_idle()
    assert driven.usage.endings == {"jti-0": [Ending.CANCELLED], "jti-1": [Ending.STOP]}


def test_an_embedding_is_the_mean_direction_whatever_its_chunks() -> None:
    whole = DrivenCore()
    chunked = DrivenCore(pace=PaceLimits(8))
    tokens = tuple(range(40))
    alone = whole.submit(tokens, pooled=True)
    parts = [chunked.submit(tokens, pooled=True), chunked.submit("something else to embed", pooled=True)]
    chunked.submit("and an answer beside")
    whole.end_idle()
    chunked.end_idle()
    assert alone.done is not None
    assert parts[0].done is not None
    expected, got = alone.done.embedding, parts[0].done.embedding
    assert expected is not None
    assert got is not None
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got), 1, atol=1e-5)
    assert alone.output_tokens == 0


def test_newcomers_in_a_row_leave_every_other_step_to_those_who_run() -> None:
    driven = DrivenCore(slots=16, cells=8_192)
    streams = [driven.submit(f"stream {number}", "a", 300) for number in range(8)]
    driven.run(lambda: all(reader.output_tokens > 10 for reader in streams))
    begun = len(driven.backend.steps)
    newcomers = [driven.submit(f"{number} of a newcomer's short prompts", f"n{number}", 3) for number in range(6)]
    driven.run(lambda: all(reader.ended for reader in newcomers))
    alone = [len(step) == 1 for step in driven.backend.steps[begun:]]
    assert sum(alone) >= 3
    assert not any(earlier and later for earlier, later in pairwise(alone))


def test_who_can_use_no_more_saves_nothing_up_against_who_could() -> None:
    driven = DrivenCore(slots=4, cells=8_192, context_tokens=4_096, pace=PaceLimits(64, stretch=6.0))
    driven.submit("one stream", "modest", 1_000)
    driven.submit("x" * 3_000, "busy", 1)
    driven.run(lambda: driven.core.snapshot().prefill_tokens > 900)
    counters = {tenant.tenant: tenant.counter for tenant in driven.core.snapshot().tenants}
    assert counters["busy"] - counters["modest"] <= 64
