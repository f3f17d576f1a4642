"""Who has a place: the poorest first, newcomers beyond the slots, and preemption that ends and pays for itself."""

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_model.engine.fair_share import FairShare
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.scheduler import QUANTUM, Capacity, Scheduler
from redoma_model.engine.sequence import NO_SLOT, Request, Sequence
from redoma_model.engine.text import TextAssembler


class Cells:
    """Seating by a number of cells: each sequence takes as many as its prompt has tokens."""

    def __init__(self, scheduler: Scheduler, cells: int = 1_000_000) -> None:
        self.scheduler = scheduler
        self.cells = cells
        self.preempted: list[Sequence] = []

    def fits(self, sequence: Sequence, without: Collection[Sequence]) -> bool:
        staying = [running for running in self.scheduler.running if running not in without]
        return not staying or sum(map(size, [*staying, sequence])) <= self.cells

    def seat(self, sequence: Sequence) -> bool:
        assert sequence.slot != NO_SLOT
        return self.fits(sequence, ())

    def preempt(self, sequence: Sequence) -> None:
        assert sequence.slot != NO_SLOT
        self.preempted.append(sequence)
        self.scheduler.preempt(sequence)


def size(sequence: Sequence) -> int:
    return len(sequence.request.prompt)


class Driven:
    """A scheduler with short words for what is done to it."""

    def __init__(self, slots: int, spare_slots: int = 0, cells: int = 1_000_000) -> None:
        self.scheduler = Scheduler(Capacity(slots, spare_slots), FairShare())
        self.cells = Cells(self.scheduler, cells)

    def ask(self, tenant: str, count: int = 1, *, weight: int = 1, tokens: int = 5) -> list[Sequence]:
        request = Request((1,) * tokens, Sampling(), tenant=tenant, weight=weight)
        made = [Sequence(request, TextAssembler((), False, False), 10, 0.0) for _ in range(count)]
        for sequence in made:
            self.scheduler.add(sequence)
        return made

    def admit(self) -> list[Sequence]:
        admitted = self.scheduler.admit(self.cells)
        for sequence in admitted:
            sequence.admitted_at = 1.0
        return admitted

    def tenants(self) -> list[str]:
        return sorted(sequence.request.tenant for sequence in self.scheduler.running)

    def charge(self, tenant: str, tokens: float) -> None:
        self.scheduler.fair.active[tenant].charge(int(tokens), 0)


def test_a_tenants_requests_are_admitted_in_the_order_of_arrival() -> None:
    driven = Driven(2)
    asked = driven.ask("a", 4)
    assert driven.admit() == asked[:2]
    assert driven.admit() == []
    driven.scheduler.remove(asked[0])
    assert driven.admit() == [asked[2]]


def test_the_poorest_tenants_request_is_admitted_first() -> None:
    driven = Driven(1)
    (holder,) = driven.ask("a")
    driven.admit()
    first_rich, poor = driven.ask("a")[0], driven.ask("b")[0]
    driven.charge("a", 50)
    driven.charge("b", 60)
    driven.scheduler.remove(holder)
    assert driven.admit() == [first_rich]
    assert poor.slot == NO_SLOT


def test_a_large_request_is_not_overtaken_by_its_tenants_own() -> None:
    driven = Driven(3, cells=100)
    first, large, small = (driven.ask("a", tokens=tokens)[0] for tokens in (50, 60, 5))
    assert driven.admit() == [first]
    driven.scheduler.remove(first)
    assert driven.admit() == [large, small]


def test_a_large_request_does_not_keep_others_waiting() -> None:
    driven = Driven(3, cells=100)
    driven.ask("a", tokens=50)
    driven.admit()
    driven.ask("a", tokens=80)
    (other,) = driven.ask("b", tokens=20)
    driven.charge("b", 10)
    assert driven.admit() == [other]


def test_a_request_as_large_as_all_there_is_runs_alone() -> None:
    driven = Driven(4, cells=60)
    (huge,) = driven.ask("a", tokens=90)
    assert driven.admit() == [huge]


def test_a_newcomer_has_a_spare_slot_and_takes_nobodys_place() -> None:
    driven = Driven(2, spare_slots=1)
    driven.ask("a", 5)
    assert len(driven.admit()) == 2
    driven.ask("b", 2)
    assert [sequence.request.tenant for sequence in driven.admit()] == ["b"]
    assert driven.cells.preempted == []
    assert driven.tenants() == ["a", "a", "b"]


def test_a_newcomer_takes_the_richest_tenants_youngest_place_when_all_are_taken() -> None:
    driven = Driven(4)
    rich = driven.ask("rich", 2)
    driven.ask("poor", 2)
    driven.admit()
    driven.charge("rich", 100)
    driven.ask("new")
    driven.admit()
    assert driven.cells.preempted == [rich[1]]
    assert driven.tenants() == ["new", "poor", "poor", "rich"]


def test_who_was_preempted_waits_at_the_head_of_its_line() -> None:
    driven = Driven(2)
    first, second, third = driven.ask("a", 3)
    driven.admit()
    driven.charge("a", 10)
    (new,) = driven.ask("b")
    driven.admit()
    assert (first.slot != NO_SLOT, second.slot, second.is_preempted) == (True, NO_SLOT, True)
    driven.scheduler.remove(new)
    assert driven.admit() == [second]
    assert third.slot == NO_SLOT


def test_who_runs_less_than_its_share_takes_places_until_it_runs_its_share() -> None:
    driven = Driven(6)
    driven.ask("a", 12)
    driven.admit()
    driven.charge("a", 10)
    driven.ask("b", 12)
    driven.admit()
    assert driven.tenants() == ["a"] * 3 + ["b"] * 3
    driven.admit()
    assert len(driven.cells.preempted) == 3


def test_places_are_shared_by_weight() -> None:
    driven = Driven(8)
    driven.ask("light", 12)
    driven.admit()
    driven.charge("light", 10)
    driven.ask("heavy", 12, weight=3)
    driven.admit()
    assert driven.tenants() == ["heavy"] * 6 + ["light"] * 2


def test_nobody_takes_a_poorer_tenants_place() -> None:
    driven = Driven(2)
    driven.ask("a", 2)
    driven.admit()
    driven.ask("b", 2)
    driven.charge("b", 1)
    assert driven.admit() == []
    assert driven.tenants() == ["a", "a"]


def test_a_newcomer_takes_no_place_before_a_poorer_tenant_that_gave_its_own_up() -> None:
    driven = Driven(1)
    (first,) = driven.ask("a")
    driven.admit()
    driven.charge("a", 10)
    driven.ask("b")
    driven.admit()
    assert first.is_preempted
    driven.charge("b", 30)
    driven.ask("c")
    assert driven.admit() == []
    assert driven.tenants() == ["b"]


@pytest.mark.parametrize("weight", [1, 4])
def test_a_preempted_request_takes_a_place_back_after_a_quantum(weight: int) -> None:
    driven = Driven(1)
    (first,) = driven.ask("a", weight=weight)
    driven.admit()
    driven.charge("a", weight)
    driven.ask("b", weight=weight)
    driven.admit()
    assert first.is_preempted
    mine = driven.scheduler.fair.active["a"].counter
    theirs = driven.scheduler.fair.active["b"]
    theirs.counter = mine + QUANTUM / weight - 1
    assert driven.admit() == []
    theirs.counter = mine + QUANTUM / weight
    assert driven.admit() == [first]
    assert driven.tenants() == ["a"]


def test_a_place_that_would_not_suffice_is_not_taken() -> None:
    driven = Driven(8, cells=100)
    driven.ask("b", tokens=60)
    driven.admit()
    driven.charge("b", 5)
    small = driven.ask("a", 6, tokens=5)
    driven.admit()
    driven.charge("a", 5)
    driven.ask("b", tokens=70)
    driven.admit()
    assert driven.cells.preempted == []
    assert all(sequence.slot != NO_SLOT for sequence in small)


def test_a_newcomer_takes_as_many_places_as_its_prompt_needs_and_no_more() -> None:
    driven = Driven(8, cells=100)
    driven.ask("a", 8, tokens=12)
    driven.admit()
    driven.charge("a", 5)
    (new,) = driven.ask("b", tokens=40)
    assert new in driven.admit()
    assert len(driven.cells.preempted) == 3
    assert driven.tenants() == ["a"] * 5 + ["b"]


def test_who_begins_to_ask_for_more_saves_nothing_up() -> None:
    driven = Driven(1)
    driven.ask("modest")
    driven.admit()
    driven.ask("busy", 5)
    driven.charge("busy", 1_000)
    driven.ask("modest")
    fair = driven.scheduler.fair.active
    assert fair["modest"].counter == fair["busy"].counter == 1_000


def test_the_richest_gives_way_when_not_all_can_go_on() -> None:
    driven = Driven(4)
    poor, rich = driven.ask("poor", 2), driven.ask("rich", 2)
    driven.admit()
    driven.charge("rich", 10)
    assert driven.scheduler.richest() is rich[1]
    for sequence in (*rich, poor[1]):
        driven.scheduler.remove(sequence)
    assert driven.scheduler.richest() is None


def test_removing_frees_exactly_what_was_held() -> None:
    driven = Driven(2, spare_slots=1)
    running, waiting = driven.ask("a", 2), driven.ask("a", 2)
    driven.admit()
    driven.scheduler.remove(waiting[0])
    assert (driven.scheduler.waiting, driven.scheduler.free_slots) == (1, 0)
    driven.scheduler.remove(running[0])
    driven.scheduler.remove(waiting[1])
    driven.scheduler.remove(running[1])
    assert driven.scheduler.idle
    assert driven.scheduler.all_slots_free
    assert list(driven.scheduler.lines()) == []
    assert driven.scheduler.fair.active == {}


def test_a_lines_pace_is_that_of_its_admissions_while_some_wait() -> None:
    driven = Driven(1)
    driven.ask("a", 3)
    line = driven.scheduler.line("a")
    assert line is not None
    for now in (0.0, 10.0, 20.0, 30.0, 40.0):
        line.note_admission(now)
    assert 5 < line.interval_s < 10
    line.waiting.clear()
    before = line.interval_s
    line.note_admission(50.0)
    after = line.interval_s
    line.note_admission(5_000.0)
    assert before < after == line.interval_s


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "admit", "admit", "charge", "leave"]), st.integers(0, 4), st.integers(1, 80)
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    slots=st.integers(1, 4),
    spare_slots=st.integers(0, 2),
    cells=st.sampled_from([80, 150, 10_000]),
    weights=st.lists(st.sampled_from([1, 3]), min_size=5, max_size=5),
    actions=ACTIONS,
)
def test_the_books_hold_whatever_comes(
    slots: int, spare_slots: int, cells: int, weights: list[int], actions: list[tuple[str, int, int]]
) -> None:
    driven = Driven(slots, spare_slots, cells)
    scheduler = driven.scheduler
    there: list[Sequence] = []
    order: dict[str, list[Sequence]] = {}
    for what, who, amount in actions:
        tenant = f"t{who}"
        if what == "ask":
            (asked,) = driven.ask(tenant, weight=weights[who], tokens=amount)
            there.append(asked)
            order.setdefault(tenant, []).append(asked)
        elif what == "charge" and tenant in scheduler.fair.active:
            driven.charge(tenant, amount * 20)
        elif what == "leave" and there:
            gone = there.pop(amount % len(there))
            order[gone.request.tenant].remove(gone)
            scheduler.remove(gone)
        elif what == "admit":
            before = len(driven.cells.preempted)
            admitted = driven.admit()
            taken = driven.cells.preempted[before:]
            assert not taken or set(admitted) - set(taken), "a place was taken for nobody"
            assert len(set(taken)) == len(taken), "one was put out twice"
            assert set(admitted) <= set(scheduler.running), "who was let in was put out at once"
            assert scheduler.running or not there
        held = sorted(sequence.slot for sequence in scheduler.running)
        assert len(set(held)) == len(held) <= slots + spare_slots
        assert scheduler.waiting == len(there) - len(held)
        assert len(held) <= slots or len({one.request.tenant for one in scheduler.running}) > len(held) - slots
        assert len(held) == 1 or sum(map(size, scheduler.running)) <= cells
        for tenant, mine in order.items():
            waits = [one.slot == NO_SLOT and one.admitted_at is None for one in mine]
            assert waits == sorted(waits), f"{tenant}'s requests overtook each other"
