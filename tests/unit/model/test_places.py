"""What a place costs: cells promised and held, copies in host memory within a budget, prefixes that make room."""

from collections.abc import Callable

import pytest

from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.fair_share import FairShare
from redoma_model.engine.places import PlaceLimits, Places
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import NO_SLOT, Request, Sequence
from redoma_model.engine.text import TextAssembler
from tests.fakes.model_backend import FakeBackend


class Driven:
    """Places over a fake model, without an engine round them."""

    def __init__(
        self, limits: PlaceLimits | None = None, *, slots: int = 4, cells: int = 200, context_tokens: int = 200
    ) -> None:
        self.backend = FakeBackend(slots=slots, cells=cells, context_tokens=context_tokens, sequences=slots + 12)
        limits = limits or PlaceLimits(spare_slots=0, headroom_tokens=10)
        self.places = Places(self.backend, self.backend.info, FairShare(), limits, lambda: 0.0)

    def ask(self, tenant: str, tokens: int, limit: int = 50, pooled: bool = False) -> Sequence:
        prompt = tuple((ord(tenant) + at) % 250 for at in range(tokens))
        request = Request(prompt, Sampling(), tenant=tenant, pooled=pooled)
        sequence = Sequence(request, TextAssembler((), False, False), limit, 0.0)
        self.places.scheduler.add(sequence)
        return sequence

    def admit(self) -> list[Sequence]:
        admitted = self.places.admit()
        for sequence in admitted:
            sequence.admitted_at = 0.0
        return admitted

    def compute(self, sequence: Sequence, answer: int = 0) -> None:
        """Computes what is pending of a running sequence, then so many tokens of an answer."""
        for _ in range(answer + 1):
            count = sequence.pending
            self.backend.decode([Chunk(sequence, count)], sequence.lane)
            sequence.computed += count
            sequence.tokens.append(7)
        self.check()

    def check(self) -> None:
        """Checks the books against the cells there are."""
        assert self.places.used_cells == self.backend.held_cells
        self.places.cache.check()

    def leave(self, sequence: Sequence, keep: bool = True) -> None:
        self.places.leave(sequence, keep)
        self.check()


def test_a_place_sets_cells_aside_for_an_answer() -> None:
    driven = Driven(PlaceLimits(spare_slots=0, headroom_tokens=30))
    first, second, third = (driven.ask("a", 60) for _ in range(3))
    assert driven.admit() == [first, second]
    driven.leave(first)
    assert driven.admit() == [third]


def test_no_more_is_set_aside_than_an_answer_can_take() -> None:
    driven = Driven(PlaceLimits(spare_slots=0, headroom_tokens=1_000))
    asked = [driven.ask("a", 60, limit=5) for _ in range(3)]
    assert driven.admit() == asked


def test_one_alone_gets_its_place_whatever_it_needs() -> None:
    driven = Driven(cells=100, context_tokens=100)
    huge = driven.ask("a", 99, limit=1)
    assert driven.admit() == [huge]


def test_cached_prefixes_make_room_before_anybody_is_preempted() -> None:
    driven = Driven()
    old = driven.ask("a", 96)
    driven.admit()
    driven.compute(old)
    driven.leave(old)
    assert driven.places.cache.cells == 96
    new = driven.ask("b", 150)
    assert driven.admit() == [new]
    assert driven.places.cache.cells <= 40
    assert driven.places.preemptions == 0
    driven.check()


def test_a_step_takes_room_from_prefixes_and_then_from_the_richest() -> None:
    driven = Driven(PlaceLimits(spare_slots=0, headroom_tokens=1, prefix_cache=False), slots=2, cells=130)
    poor, rich = driven.ask("p", 60), driven.ask("r", 60)
    driven.admit()
    driven.compute(poor, 4)
    driven.compute(rich, 4)
    rich.account.charge(100, 0)
    assert driven.places.free_cells == 2
    driven.places.make_room_to_go_on(64)
    assert driven.places.preemptions == 0
    driven.compute(poor)
    driven.places.make_room_to_go_on(64)
    assert (poor.slot != NO_SLOT, rich.slot) == (True, NO_SLOT)
    driven.check()


def test_the_only_one_that_runs_is_never_preempted() -> None:
    driven = Driven(slots=1, cells=100, context_tokens=100)
    alone = driven.ask("a", 99)
    driven.admit()
    driven.compute(alone)
    driven.places.make_room_to_go_on(64)
    assert not driven.places.preempt_richest()
    assert alone.slot != NO_SLOT


def preempted(driven: Driven, tokens: int = 40, pooled: bool = False) -> Sequence:
    sequence = driven.ask("a", tokens, pooled=pooled)
    driven.admit()
    driven.compute(sequence, 3)
    driven.places.preempt(sequence)
    driven.check()
    return sequence


def test_a_preempted_sequence_comes_back_with_all_it_had() -> None:
    driven = Driven()
    sequence = preempted(driven)
    assert sequence.is_preempted
    assert driven.places.swapped_bytes == len(sequence.saved or b"") > 0
    assert driven.admit() == [sequence]
    assert (sequence.pending, sequence.saved, driven.places.swapped_bytes) == (1, None, 0)
    driven.compute(sequence)
    driven.leave(sequence)
    driven.places.check_idle()


def test_the_swap_budget_is_kept_and_the_rest_is_computed_again() -> None:
    driven = Driven(PlaceLimits(spare_slots=0, headroom_tokens=10, swap_bytes=600))
    first, second = driven.ask("a", 40), driven.ask("b", 40)
    driven.admit()
    for sequence in (first, second):
        driven.compute(sequence, 3)
    for sequence in (first, second):
        driven.places.preempt(sequence)
    driven.check()
    saved = [sequence for sequence in (first, second) if sequence.saved is not None]
    assert len(saved) == 1
    assert driven.places.swapped_bytes <= 600
    (again,) = {first, second} - set(saved)
    assert again.computed == 0
    assert set(driven.admit()) >= {again}
    driven.compute(again)


def test_a_sequence_of_which_nothing_was_computed_takes_no_host_memory() -> None:
    driven = Driven()
    sequence = driven.ask("a", 40)
    driven.admit()
    driven.places.preempt(sequence)
    assert (sequence.saved, driven.places.swapped_bytes) == (None, 0)
    assert driven.admit() == [sequence]


@pytest.mark.parametrize("keep", [True, False])
def test_a_swapped_sequence_that_leaves_gives_its_host_memory_back(keep: bool) -> None:
    driven = Driven()
    driven.leave(preempted(driven), keep)
    assert driven.places.swapped_bytes == 0
    driven.places.check_idle()


def test_cells_that_find_no_place_after_all_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven()
    sequence = preempted(driven)

    def full(slot: int, saved: bytes) -> None:
        raise OutOfCells

    monkeypatch.setattr(driven.backend, "restore", full)
    assert driven.admit() == [sequence]
    assert driven.places.swapped_bytes == 0
    assert sequence.computed < 40
    driven.compute(sequence)
    driven.leave(sequence)
    driven.places.check_idle()


def test_what_is_kept_serves_the_tenants_next() -> None:
    driven = Driven()
    first = driven.ask("a", 40)
    driven.admit()
    driven.compute(first)
    driven.leave(first)
    again, other = driven.ask("a", 40), driven.ask("b", 40)
    assert driven.places.reusable(again) == 32
    assert driven.places.reusable(other) == 0
    driven.admit()
    assert (again.computed, other.computed) == (32, 0)


@pytest.mark.parametrize("why", ["not kept", "no prefix cache", "an embedding"])
def test_nothing_is_kept_where_it_must_not(why: str) -> None:
    limits = PlaceLimits(spare_slots=0, headroom_tokens=10, prefix_cache=why != "no prefix cache")
    driven = Driven(limits)
    sequence = driven.ask("a", 40, pooled=why == "an embedding")
    driven.admit()
    driven.compute(sequence)
    driven.leave(sequence, keep=why != "not kept")
    assert driven.backend.held_cells == driven.places.cache.cells == 0
    assert driven.places.reusable(driven.ask("a", 40)) == 0


def test_a_prefix_that_is_shared_counts_once() -> None:
    driven = Driven()
    first = driven.ask("a", 64)
    driven.admit()
    driven.compute(first)
    driven.places.keep_prefix(first)
    second = driven.ask("a", 64)
    driven.admit()
    driven.compute(second)
    driven.places.keep_prefix(second)
    driven.check()
    assert driven.backend.held_cells == 64
    assert second.computed == 64


LEAKS: dict[str, Callable[[Driven, Sequence], object]] = {
    "cells": lambda driven, sequence: driven.backend.decode([Chunk(sequence, 1)], sequence.lane),
    "host memory": lambda driven, sequence: setattr(driven.places, "swapped_bytes", 5),
    "a cached prefix": lambda driven, sequence: [driven.backend.forget(one) for one in range(4, 16)],
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_seen_when_idle(what: str) -> None:
    driven = Driven()
    kept = driven.ask("a", 40)
    driven.admit()
    driven.compute(kept)
    driven.leave(kept)
    driven.places.check_idle()
    stray = Sequence(Request((1, 2), Sampling()), TextAssembler((), False, False), 1, 0.0)
    stray.slot = 0
    LEAKS[what](driven, stray)
    with pytest.raises(RuntimeError):
        driven.places.check_idle()


def test_a_slot_that_is_still_held_is_seen_when_idle() -> None:
    driven = Driven()
    driven.ask("a", 4)
    driven.admit()
    with pytest.raises(RuntimeError, match="slot"):
        driven.places.check_idle()
