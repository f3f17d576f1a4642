"""Admission and batching: first come first served, bounds, and the books of slots and cells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_model.engine.batch import compose
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.scheduler import Scheduler
from redoma_model.engine.sequence import NO_SLOT, Request, Sequence
from redoma_model.engine.text import TextAssembler


def sequence(prompt: int, limit: int = 10) -> Sequence:
    return Sequence(Request(tuple(range(prompt)), Sampling()), TextAssembler((), False, False), limit, 0.0)


def scheduler(slots: int = 2, cells: int = 100, step: int = 16, headroom: int = 10) -> Scheduler:
    return Scheduler(slots, cells, step, headroom)


def test_generating_sequences_go_before_prompts() -> None:
    long, generating = sequence(50), sequence(5)
    generating.computed = 4
    chunks = compose([long, generating], 16)
    assert [(chunk.sequence, chunk.count, chunk.completes) for chunk in chunks] == [
        (generating, 1, True),
        (long, 15, False),
    ]


def test_a_prompt_is_computed_in_chunks_and_the_last_completes() -> None:
    prompt = sequence(40)
    counts = []
    while prompt.pending:
        (chunk,) = compose([prompt], 16)
        counts.append((chunk.count, chunk.completes))
        prompt.computed += chunk.count
    assert counts == [(16, False), (16, False), (8, True)]


def test_rest_of_the_budget_goes_to_the_next_prompt() -> None:
    assert [chunk.count for chunk in compose([sequence(10), sequence(10)], 16)] == [10, 6]


def test_admits_in_the_order_of_arrival() -> None:
    queue = scheduler()
    sequences = [sequence(5) for _ in range(4)]
    for one in sequences:
        queue.add(one)
    assert queue.admit() == sequences[:2]
    assert queue.admit() == []
    queue.remove(sequences[0])
    assert queue.admit() == [sequences[2]]


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    queue = scheduler(slots=3)
    first, large, small = sequence(50), sequence(60), sequence(5)
    for one in (first, large, small):
        queue.add(one)
    assert queue.admit() == [first]
    queue.remove(first)
    assert queue.admit() == [large, small]


def test_short_answers_reserve_no_more_than_they_can_use() -> None:
    queue = scheduler(slots=2, cells=22, headroom=10)
    queue.add(sequence(10, limit=1))
    queue.add(sequence(10, limit=1))
    assert len(queue.admit()) == 2


def test_a_request_as_large_as_the_cells_runs_alone() -> None:
    queue = scheduler(cells=60)
    queue.add(sequence(55, limit=5))
    assert len(queue.admit()) == 1


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    queue = scheduler(slots=2, cells=20, headroom=1)
    old, young, waiting = sequence(8, 12), sequence(8, 12), sequence(3)
    for one in (old, young, waiting):
        queue.add(one)
    queue.admit()
    old.computed = young.computed = 8
    old.tokens += [0] * 2
    young.tokens += [0] * 2
    old.computed = young.computed = 10
    assert queue.short_of_cells

    assert queue.preempt_youngest() == (young, 1)

    assert (young.slot, young.computed, len(young.tokens)) == (NO_SLOT, 0, 10)
    assert list(queue.waiting) == [young, waiting]
    assert not queue.short_of_cells
    assert queue.preempt_youngest() is None


def test_removing_a_waiting_sequence_frees_no_slot() -> None:
    queue = scheduler()
    waiting = sequence(3)
    queue.add(waiting)
    assert queue.remove(waiting) == NO_SLOT
    assert queue.idle
    assert queue.free_slots == 2


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), min_size=1, max_size=12),
    slots=st.integers(1, 5),
    headroom=st.integers(1, 30),
)
def test_every_request_ends_and_nothing_leaks(sizes: list[tuple[int, int, bool]], slots: int, headroom: int) -> None:
    cells, step = 80, slots + 8
    queue = Scheduler(slots, cells, step, headroom)
    pending = [(sequence(prompt, limit), cancel) for prompt, limit, cancel in sizes]
    for one, _ in pending:
        queue.add(one)
    ended: list[Sequence] = []
    steps = 0
    while not queue.idle:
        steps += 1
        assert steps < 5_000, "no progress"
        queue.admit()
        while queue.short_of_cells:
            assert queue.preempt_youngest() is not None
        chunks = queue.next_step()
        assert chunks
        assert sum(chunk.count for chunk in chunks) <= min(step, cells - queue.used_cells)
        assert len({chunk.sequence.slot for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            one = chunk.sequence
            completes = chunk.completes
            one.computed += chunk.count
            if completes:
                one.tokens.append(0)
                cancelled = dict(pending)[one] and one.output_tokens > 3
                if one.output_tokens >= one.limit or cancelled:
                    queue.remove(one)
                    ended.append(one)
    assert len(ended) == len(pending)
    assert queue.free_slots == slots
    assert queue.used_cells == 0


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_step_never_exceeds_its_budget(budget: int) -> None:
    generating = [sequence(5) for _ in range(4)]
    for one in generating:
        one.computed = 4
    assert len(compose(generating, budget)) == budget
