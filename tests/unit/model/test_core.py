"""The engine's core on a fake model: what is reused and by whom, what a fault costs, and what every ending frees."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import AdapterFileError, DecodeFailed, TokenLogprob
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.stream import Delta, Done, FinishReason, Started
from redoma_model.errors import AdapterNotFound, DeadlineUnreachable, GenerationFailed, TenantPurged
from redoma_model.journal import Ending, TokenCounts
from tests.fakes.driven_core import DrivenCore, Reader, StepCost
from tests.fakes.model_backend import IM_END

# Longer than a few blocks of the prefix cache.
HISTORY = "".join(f"line {number} of a history. " for number in range(8))
LoadAdapter = Callable[[DrivenCore, int], LoadedAdapter]


@pytest.fixture
def load_adapter(tmp_path: Path) -> LoadAdapter:
    """Loads an adapter of tenant "a" that shifts the alphabet."""

    def load(driven: DrivenCore, shift: int) -> LoadedAdapter:
        path = tmp_path / f"{shift}.gguf"
        path.write_bytes(b"FAKE-ADAPTER %d" % shift)
        adapter = LoadedAdapter(f"sha256:{shift:064x}", "a", "", f"shift-{shift}", 1.0)
        return driven.core.load_adapter(adapter, path)

    return load


def end_idle(driven: DrivenCore) -> None:
    """Runs to the end and checks that nothing is held but cached prefixes."""
    driven.run()
    driven.core.check_idle()
    assert driven.backend.samplers == 0
    assert driven.backend.held_cells == driven.core.snapshot().used_cells
    assert all(reader.ended for reader in driven.readers.values())


def computed_tokens(driven: DrivenCore) -> int:
    return sum(count for step in driven.backend.steps for _, count in step)


# One request.


def test_a_request_starts_streams_and_ends() -> None:
    driven = DrivenCore()
    reader = driven.submit("say:hello", output=None)
    end_idle(driven)
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
    end_idle(driven)
    assert reader.done is not None
    assert (reader.done.finish_reason, reader.done.output_tokens) == (FinishReason.LENGTH, asked)


@pytest.mark.parametrize("speculation", [False, True])
def test_ends_where_the_context_window_ends(speculation: bool) -> None:
    driven = DrivenCore(context_tokens=64, speculation=speculation)
    readers = [driven.submit("x" * 60, output=None), driven.submit("y" * 63, output=None)]
    end_idle(driven)
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
    end_idle(driven)
    assert driven.usage.endings == {"jti-0": [Ending.CANCELLED], "jti-1": [Ending.STOP]}


def test_an_embedding_is_the_mean_direction_whatever_its_chunks() -> None:
    whole = DrivenCore()
    chunked = DrivenCore(pace=PaceLimits(8))
    tokens = tuple(range(40))
    alone = whole.submit(tokens, pooled=True)
    parts = [chunked.submit(tokens, pooled=True), chunked.submit("something else to embed", pooled=True)]
    chunked.submit("and an answer beside")
    end_idle(whole)
    end_idle(chunked)
    assert alone.done is not None
    assert parts[0].done is not None
    expected, got = alone.done.embedding, parts[0].done.embedding
    assert expected is not None
    assert got is not None
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got), 1, atol=1e-5)
    assert alone.output_tokens == 0


# Preemption.


def short_of_places(swap_bytes: int, pooled: bool = False) -> tuple[DrivenCore, Reader]:
    """One slot, a request that runs in it, and another tenant's that takes it."""
    driven = DrivenCore(slots=1, places=PlaceLimits(spare_slots=0, swap_bytes=swap_bytes), pace=PaceLimits(64))
    first = driven.submit(HISTORY, "a", 40, pooled=pooled)
    driven.run(lambda: (computed_tokens(driven) > 100) if pooled else first.output_tokens == 20)
    driven.submit("say:quick", "b", None)
    return driven, first


def test_a_preempted_request_goes_on_without_being_computed_again() -> None:
    driven, first = short_of_places(1 << 30)
    end_idle(driven)
    assert driven.core.snapshot().preemptions == 1
    assert computed_tokens(driven) == len(HISTORY) + 39 + len("say:quick") + 5
    assert first.done is not None
    assert first.done.output_tokens == 40
    assert first.text == "abcdefghijklmnopqrstuvwxyz abcdefghijklm"


def test_a_preempted_request_beyond_the_swap_budget_is_computed_again() -> None:
    driven, first = short_of_places(0)
    end_idle(driven)
    # The prompt's whole blocks stay in the tenant's prefix cache: answer and the rest of a block come again.
    again = computed_tokens(driven) - (len(HISTORY) + 39 + len("say:quick") + 5)
    assert 19 <= again <= 19 + 16
    assert first.text == "abcdefghijklmnopqrstuvwxyz abcdefghijklm"
    assert driven.usage.counts["jti-0"] == TokenCounts(len(HISTORY), 0, 40)


def test_a_prompt_computed_again_is_charged_once() -> None:
    driven = DrivenCore(slots=1, places=PlaceLimits(spare_slots=0, swap_bytes=0, prefix_cache=False))
    driven.submit(HISTORY, "a", 40)
    driven.run(lambda: driven.readers[next(iter(driven.readers))].output_tokens == 20)
    driven.submit("say:quick", "b", None)
    driven.run()
    snapshot = driven.core.snapshot()
    assert snapshot.preemptions == 1
    assert snapshot.prefill_tokens == len(HISTORY) + len("say:quick")
    counters = {tenant.tenant: tenant.counter for tenant in snapshot.tenants}
    assert counters["a"] == len(HISTORY) + 2 * 40


@pytest.mark.parametrize("swap_bytes", [0, 1 << 30])
def test_a_preempted_embedding_keeps_its_value(swap_bytes: int) -> None:
    driven, first = short_of_places(swap_bytes, pooled=True)
    alone = DrivenCore()
    expected = alone.submit(HISTORY, pooled=True)
    end_idle(driven)
    end_idle(alone)
    assert driven.core.snapshot().preemptions == 1
    assert first.done is not None
    assert expected.done is not None
    assert first.done.embedding is not None
    assert expected.done.embedding is not None
    np.testing.assert_allclose(first.done.embedding, expected.done.embedding, atol=1e-5)


def test_a_swapped_request_can_be_cancelled() -> None:
    driven, first = short_of_places(1 << 30)
    driven.run(lambda: driven.core.snapshot().preempted == 1)
    assert driven.core.snapshot().swapped_bytes > 0
    driven.cancel(first)
    assert driven.core.snapshot().swapped_bytes == 0
    end_idle(driven)


def test_cells_run_out_and_all_requests_still_end() -> None:
    places = PlaceLimits(spare_slots=1, headroom_tokens=4)
    driven = DrivenCore(cells=300, context_tokens=300, places=places, speculation=True)
    readers = [driven.submit(f"no. {number} goes on", "abc"[number % 3], 150) for number in range(9)]
    end_idle(driven)
    assert [reader.done and reader.done.output_tokens for reader in readers] == [150] * 9
    assert driven.core.snapshot().preemptions > 0


# The prefix cache.


def test_the_second_turn_reuses_the_first() -> None:
    driven = DrivenCore()
    first = driven.submit(HISTORY, output=20)
    driven.run()
    second = driven.submit(HISTORY + first.text + " And then?", output=5)
    end_idle(driven)
    assert first.cached == 0
    assert second.cached >= len(HISTORY)
    account = driven.core.snapshot().tenants[0]
    assert (account.input_tokens, account.cached_input_tokens) == (
        2 * len(HISTORY) + 30,
        second.cached,
    )


def test_no_tenant_profits_from_anothers_prompts() -> None:
    driven = DrivenCore()
    driven.submit(HISTORY, "a")
    driven.run()
    probe, own = driven.submit(HISTORY, "b"), driven.submit(HISTORY, "a")
    end_idle(driven)
    assert probe.cached == 0
    assert own.cached > 0
    assert driven.usage.counts["jti-1"].cached_input_tokens == 0
    assert driven.core.snapshot().prefill_tokens == 3 * len(HISTORY) - own.cached


def test_adapters_of_a_tenant_share_nothing(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore()
    one, two = load_adapter(driven, 1), load_adapter(driven, 2)
    texts, cached = [], []
    for _ in range(2):
        readers = [driven.submit(HISTORY, adapter=adapter) for adapter in (None, one, two)]
        driven.run()
        texts.append([reader.text[:3] for reader in readers])
        cached.append([reader.cached > 0 for reader in readers])
    end_idle(driven)
    assert texts == [["abc", "bcd", "cde"]] * 2
    assert cached == [[False] * 3, [True] * 3]


def test_embeddings_reuse_and_leave_nothing() -> None:
    driven = DrivenCore()
    driven.submit(HISTORY)
    driven.run()
    cells = driven.core.snapshot().cached_cells
    embedding = driven.submit(HISTORY, pooled=True)
    end_idle(driven)
    assert embedding.cached == 0
    assert driven.core.snapshot().cached_cells == cells


def test_a_public_prefix_serves_all_and_is_reported_by_none() -> None:
    driven = DrivenCore()
    driven.core.publish(tuple(HISTORY.encode()))
    before = computed_tokens(driven)
    readers = [driven.submit(HISTORY + "Hello", tenant, 1) for tenant in "ab"]
    end_idle(driven)
    assert computed_tokens(driven) - before == 2 * len("Hello")
    assert [reader.cached for reader in readers] == [0, 0]
    assert [driven.usage.counts[f"jti-{number}"].cached_input_tokens for number in range(2)] == [0, 0]


def test_a_public_prefix_that_leaves_no_context_window_is_refused() -> None:
    driven = DrivenCore(cells=600, context_tokens=512)
    driven.core.publish((1,) * 64)
    with pytest.raises(ValueError, match="kv_cells"):
        driven.core.publish((2,) * 64)
    driven.submit("x" * 500, output=12)
    end_idle(driven)


def test_a_public_prefix_that_fails_half_way_leaves_no_cells() -> None:
    driven = DrivenCore(pace=PaceLimits(64))
    decode, calls = driven.backend.decode, iter(range(10))

    def fails_the_second_time(chunks: object, lane: object) -> None:
        if next(calls) == 1:
            raise DecodeFailed("no")
        decode(chunks, lane)  # type: ignore[arg-type]

    driven.backend.decode = fails_the_second_time  # type: ignore[method-assign]
    with pytest.raises(DecodeFailed):
        driven.core.publish(tuple(range(200)))
    driven.core.check_idle()
    reader = driven.submit("say:hello", output=None)
    end_idle(driven)
    assert reader.text == "hello"


def test_a_prefix_that_is_shared_in_part_gives_the_rest_of_its_cells_up() -> None:
    # With so little headroom nothing is evicted in advance.
    places = PlaceLimits(spare_slots=0, headroom_tokens=1)
    driven = DrivenCore(slots=1, cells=160, context_tokens=160, sequences=7, places=places)
    driven.submit("wordword" + "x" * 110, output=20)
    driven.run()
    assert driven.core.snapshot().cached_cells >= 128
    reader = driven.submit("wordword", output=100)
    end_idle(driven)
    assert reader.cached < 8
    assert reader.output_tokens == 100
    other = driven.submit("wordword" + "a" * 20, output=100)
    end_idle(driven)
    assert other.cached >= 8
    assert other.output_tokens == 100


# Purge.


def test_purge_ends_and_frees_all_of_a_tenant_and_nothing_else() -> None:
    driven = DrivenCore(slots=2, places=PlaceLimits(spare_slots=0))
    driven.submit(HISTORY, "b", 2)
    driven.submit(HISTORY, "a", 2)
    driven.run()
    mine = [driven.submit(f"{number} goes on and on", "a", None) for number in range(4)]
    for _ in range(30):
        driven.step()
    others = [driven.submit(f"{number} goes on and on", "b", 60) for number in range(2)]
    driven.run(lambda: driven.core.snapshot().preempted > 0)
    before = driven.core.snapshot()
    states = {tenant.tenant: tenant for tenant in before.tenants}
    assert (states["a"].running, states["a"].waiting, states["a"].preempted) == (1, 2, 1)

    purged = driven.purge("a")

    assert purged.ended_requests == 4
    assert purged.freed_host_bytes == before.swapped_bytes > 0
    assert purged.freed_cells == states["a"].used_cells
    assert all(isinstance(reader.error, TenantPurged) for reader in mine)
    assert [driven.usage.endings[reader.request.token_id] for reader in mine] == [[Ending.INTERRUPTED]] * 4
    probes = [driven.submit(HISTORY, tenant, 1) for tenant in "ab"]
    end_idle(driven)
    assert probes[0].cached == 0
    assert probes[1].cached > 0
    assert all(reader.done for reader in others)


# Adapters.


def test_an_adapter_is_freed_when_its_last_request_ends(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore(slots=1)
    adapter = load_adapter(driven, 1)
    freed: list[str] = []
    running, waiting = (driven.submit("go", output=5, adapter=adapter) for _ in range(2))
    driven.step()
    driven.core.unload_adapter(adapter.digest, lambda: freed.append("first"))
    driven.core.unload_adapter(adapter.digest, lambda: freed.append("second"))
    driven.run(lambda: running.ended)
    assert (freed, driven.backend.adapters) == ([], 1)
    end_idle(driven)
    assert waiting.text == "bcdef"
    assert (sorted(freed), driven.backend.adapters) == (["first", "second"], 0)


def test_unloading_what_is_not_loaded_is_done_at_once() -> None:
    freed: list[bool] = []
    DrivenCore().core.unload_adapter("sha256:none", lambda: freed.append(True))
    assert freed == [True]


def test_an_adapters_prefixes_go_with_it(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore()
    adapter = load_adapter(driven, 1)
    driven.submit(HISTORY, adapter=adapter)
    driven.run()
    assert driven.core.snapshot().cached_cells > 0
    driven.core.unload_adapter(adapter.digest, lambda: None)
    assert driven.core.snapshot().cached_cells == 0
    late = driven.submit(HISTORY, adapter=adapter)
    assert isinstance(late.error, AdapterNotFound)
    assert late.output_tokens == 0
    end_idle(driven)


def test_a_broken_adapter_changes_nothing(tmp_path: Path) -> None:
    driven = DrivenCore()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(AdapterFileError):
        driven.core.load_adapter(LoadedAdapter("sha256:0", "a", "", "broken", 1.0), tmp_path / "broken.gguf")
    assert driven.core.snapshot().adapter_requests == {}


# Speculation.


def answers(
    speculation: bool, prompts: list[str], sampling: Sampling, certainty: float
) -> list[tuple[str, list[TokenLogprob], int]]:
    driven = DrivenCore(cells=900, speculation=speculation, places=PlaceLimits(spare_slots=0, headroom_tokens=16))
    driven.backend.certainty = certainty
    readers = [driven.submit(prompt, "ab"[place % 2], sampling=sampling) for place, prompt in enumerate(prompts)]
    end_idle(driven)
    return [(reader.text, logprobs_of(reader), reader.done.output_tokens if reader.done else -1) for reader in readers]


def logprobs_of(reader: Reader) -> list[TokenLogprob]:
    return [logprob for event in reader.events if isinstance(event, Delta) for logprob in event.logprobs]


WORDS = st.lists(st.sampled_from(["abc", "xyz ", "abcabc", "klm", "q"]), max_size=12).map("".join)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.one_of(WORDS.map("{}?".format), WORDS.map("say:{}".format)), min_size=1, max_size=6),
    certainty=st.sampled_from([2.0, 8.0, 30.0]),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        seed=st.integers(0, 2**32 - 1),
        frequency_penalty=st.sampled_from([0.0, 1.0]),
        stop=st.sampled_from([(), ("ef",), ("aa", "q")]),
        grammar=st.sampled_from(["", "", 'root ::= "abcabcabcabcabc"']),
        max_output_tokens=st.integers(1, 90),
        logprobs=st.just(True),
        logit_bias=st.just({IM_END: 1.0}),
    ),
)
def test_what_is_emitted_with_drafts_is_what_is_emitted_without(
    prompts: list[str], certainty: float, sampling: Sampling
) -> None:
    assert answers(True, prompts, sampling, certainty) == answers(False, prompts, sampling, certainty)


def test_drafts_shorten_an_answer_that_repeats() -> None:
    plain, drafted = DrivenCore(speculation=False), DrivenCore(speculation=True)
    for driven in (plain, drafted):
        driven.submit("go", output=200)
        end_idle(driven)
    snapshot = drafted.core.snapshot()
    assert snapshot.accepted_draft_tokens > 100
    assert drafted.clock.now < 0.7 * plain.clock.now


def test_one_wrong_draft_does_not_end_drafting_for_good() -> None:
    driven = DrivenCore(speculation=True)
    # After "jkl" the prompt goes on otherwise than the answer, which then repeats itself from its 28th token on.
    driven.submit("jklZZZZZZZZ", output=400)
    end_idle(driven)
    assert driven.core.snapshot().accepted_draft_tokens > 100


def test_drafts_at_the_edge_of_the_cells_push_nobody_out() -> None:
    driven = DrivenCore(
        cells=256, context_tokens=256, speculation=True, places=PlaceLimits(spare_slots=0, prefix_cache=False)
    )
    reader = driven.submit("go", output=None)
    end_idle(driven)
    assert reader.done is not None
    assert reader.done.output_tokens == 254
    assert driven.core.snapshot().drafted_tokens > 0
    assert driven.core.snapshot().preemptions == 0


# Deadlines.


def at_pace(slots: int = 1, cells: int = 2_048, places: PlaceLimits | None = None) -> DrivenCore:
    """A core that knows how long its steps take."""
    driven = DrivenCore(slots=slots, cells=cells, places=places)
    for number in range(4):
        driven.submit(str(number) * 100, "z", 20)
    driven.run()
    driven.clock.now += 1.0
    return driven


def test_a_hopeless_request_is_refused_however_shortly_after_another() -> None:
    driven = at_pace()
    driven.submit("say:x", output=None)
    driven.run()
    hopeless = driven.submit("y" * 400, deadline_s=0.3)
    driven.step()
    assert isinstance(hopeless.error, DeadlineUnreachable)
    end_idle(driven)


def test_a_prompt_too_long_for_its_deadline_is_refused_early() -> None:
    driven = at_pace()
    hopeless = driven.submit("y" * 400, deadline_s=0.5)
    hopeful = driven.submit("z" * 400, deadline_s=1.2)
    driven.step()
    assert isinstance(hopeless.error, DeadlineUnreachable)
    end_idle(driven)
    assert hopeful.done is not None
    assert driven.usage.endings[hopeless.request.token_id] == [Ending.INTERRUPTED]


def test_what_is_cached_counts_towards_a_deadline() -> None:
    driven = at_pace()
    driven.submit("y" * 400, output=1)
    driven.run()
    warm = driven.submit("y" * 400 + "?", output=1, deadline_s=0.2)
    end_idle(driven)
    assert warm.done is not None


def test_what_the_host_has_counts_towards_a_deadline() -> None:
    places = PlaceLimits(spare_slots=0, headroom_tokens=16, host_cache_bytes=1 << 20)
    driven = at_pace(cells=512, places=places)
    driven.submit("y" * 400, output=1)
    driven.run()
    driven.submit("z" * 400, "b", 1)
    driven.run()
    assert driven.core.snapshot().host_cache_bytes > 0
    driven.clock.now += 1.0
    warm = driven.submit("y" * 400 + "?", output=1, deadline_s=0.2)
    end_idle(driven)
    assert warm.cached >= 392
    assert warm.ttft_s < 0.2


def test_a_request_at_the_end_of_a_slow_line_is_refused_early() -> None:
    driven = at_pace()
    line = [driven.submit("go", output=100) for _ in range(12)]
    driven.run(lambda: line[5].ended)
    late = driven.submit("go", output=1, deadline_s=1.0)
    driven.run(lambda: late.ended)
    assert isinstance(late.error, DeadlineUnreachable)
    assert not line[-1].ended
    end_idle(driven)


def test_requests_refused_before_it_keep_nobody_from_his_deadline() -> None:
    driven = at_pace()
    line = [driven.submit("go", output=100) for _ in range(4)]
    driven.run(lambda: line[2].ended)
    hopeless = [driven.submit("go", output=100, deadline_s=0.2) for _ in range(20)]
    feasible = driven.submit("go", output=1, deadline_s=1.5)
    end_idle(driven)
    assert all(isinstance(reader.error, DeadlineUnreachable) for reader in hopeless)
    assert feasible.done is not None
    assert feasible.ttft_s < 1.5


def test_a_line_that_moves_in_bursts_refuses_nobody_who_would_be_in_time() -> None:
    def last_of_a_burst(deadline_s: float | None) -> Reader:
        driven = at_pace(slots=4)
        line = [driven.submit(f"{number} goes on", output=100) for number in range(12)]
        driven.run(lambda: line[8].output_tokens > 80)
        for number in range(3):
            driven.submit(f"{number} comes before", output=100)
        late = driven.submit("late", output=1, deadline_s=deadline_s)
        end_idle(driven)
        return late

    needed_s = last_of_a_burst(None).ttft_s
    assert last_of_a_burst(1.5 * needed_s).error is None


@pytest.mark.parametrize("cost", [StepCost(0.008, 0.00005, 0.00001), StepCost(0.02, 0.002, 0.0001), StepCost()])
def test_a_feasible_deadline_is_not_refused_after_long_decoding(cost: StepCost) -> None:
    driven = DrivenCore(cost=cost, context_tokens=2_048, cells=8_192, pace=PaceLimits(512))
    driven.submit("warm " * 100, "z", 800)
    driven.run()
    driven.clock.now += 1.0
    reader = driven.submit("y" * 1_000, output=1, deadline_s=2.6)
    end_idle(driven)
    assert reader.error is None
    assert reader.ttft_s <= 2.5


# Faults.


def test_a_poisoned_request_ends_alone() -> None:
    driven = DrivenCore()
    driven.backend.poison = tuple(b"poison")
    good = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(2)]
    for _ in range(3):
        driven.step()
    bad = driven.submit("poison", "c", None)
    good.append(driven.submit("say:fine too", "a", None))
    end_idle(driven)
    assert isinstance(bad.error, GenerationFailed)
    assert [reader.text for reader in good] == ["fine 0", "fine 1", "fine too"]


def test_a_passing_failure_ends_no_request_of_several() -> None:
    driven = DrivenCore(speculation=True)
    readers = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(4)]
    for _ in range(4):
        driven.step()
    driven.backend.faults.append(DecodeFailed("once"))
    end_idle(driven)
    assert [reader.text for reader in readers] == [f"fine {number}" for number in range(4)]


def test_a_failed_step_does_not_spoil_the_learned_pace() -> None:
    driven = DrivenCore(slots=8)
    for number in range(8):
        driven.submit(f"{number} goes on", "ab"[number % 2], 60)
    driven.run(lambda: driven.steps == 20)
    longest_s = driven.core.snapshot().step_max_s
    driven.backend.faults.append(DecodeFailed("once"))
    begun, recent = driven.clock.now, len(driven.backend.steps)
    driven.step()
    single_s = (driven.clock.now - begun) / (len(driven.backend.steps) - recent)
    assert single_s < longest_s
    recent_s = list(driven.core._pace.recent_s)[-8:]
    assert max(recent_s) == pytest.approx(single_s)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_running_out_of_cells_in_a_step_ends_no_request_of_several(count: int) -> None:
    driven = DrivenCore()
    readers = [driven.submit(f"say:fine {number}", "ab"[number % 2], None) for number in range(4)]
    for _ in range(3):
        driven.step()
    driven.backend.faults += [OutOfCells()] * min(count, 3)
    end_idle(driven)
    assert [reader.text for reader in readers] == [f"fine {number}" for number in range(4)]


def test_cells_that_never_suffice_end_the_request_and_not_the_engine() -> None:
    driven = DrivenCore()
    lost = driven.submit("go", output=None)
    driven.step()
    driven.backend.faults += [OutOfCells()] * 3
    driven.run(lambda: lost.ended)
    assert isinstance(lost.error, GenerationFailed)
    driven.backend.faults.clear()
    after = driven.submit("say:on", output=None)
    end_idle(driven)
    assert after.text == "on"


def test_logits_that_are_no_number_end_one_request() -> None:
    driven = DrivenCore(speculation=True)
    driven.backend.bad_prompt = tuple(b"bad")
    readers = [driven.submit(prompt, "a", None) for prompt in ("say:one", "bad", "say:two")]
    end_idle(driven)
    assert [reader.text for reader in readers] == ["one", "", "two"]
    assert isinstance(readers[1].error, GenerationFailed)


def test_an_embedding_without_direction_ends_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    driven = DrivenCore()
    bad, good = driven.submit("bad", pooled=True), driven.submit("good one", pooled=True)
    pooled = driven.backend.pooled
    monkeypatch.setattr(driven.backend, "pooled", lambda place: pooled(place) * (np.nan if place == 0 else 1))
    end_idle(driven)
    assert isinstance(bad.error, GenerationFailed)
    assert good.done is not None


def test_what_failed_leaves_nothing_in_the_prefix_cache() -> None:
    driven = DrivenCore()
    driven.backend.poison = tuple(HISTORY.encode())
    driven.submit(HISTORY)
    end_idle(driven)
    assert driven.core.snapshot().cached_cells == 0


def test_a_prompt_whose_logits_are_no_number_is_not_kept() -> None:
    driven = DrivenCore()
    driven.backend.bad_prompt = tuple(HISTORY.encode())
    reader = driven.submit(HISTORY)
    end_idle(driven)
    assert isinstance(reader.error, GenerationFailed)
    assert computed_tokens(driven) == len(HISTORY)
    assert driven.core.snapshot().cached_cells == 0


# Steps.


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


# Preempting for nothing.


def test_nobody_is_preempted_for_a_request_that_does_not_fit_even_so() -> None:
    places = PlaceLimits(spare_slots=0, headroom_tokens=8, prefix_cache=False)
    driven = DrivenCore(slots=8, cells=512, context_tokens=500, places=places)
    # "b" runs one that holds most cells, and asks for another that can't be had beside it.
    driven.submit("b" * 300, "b", 150)
    driven.run(lambda: driven.readers[next(iter(driven.readers))].output_tokens == 1)
    driven.submit("b" * 400, "b", 5)
    for number in range(7):
        driven.submit(f"{number} goes on", "a", 100)
    end_idle(driven)
    assert driven.core.snapshot().preemptions <= 14
