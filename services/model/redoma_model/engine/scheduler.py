"""Which requests have a place in the batch: the poorest tenant's first, each tenant's own in the order of arrival.

A place is a slot and the KV cells for the prompt and a headroom for the answer. The headroom is less than the worst
case, so that ordinary requests fill all slots; when cells run out all the same, cached prefixes go first, then the
richest tenant's youngest request gives its place up for a time.

A tenant that runs nothing is let in beyond the ordinary slots, so that its first token waits for nobody. Beyond that
a request takes the place of a richer tenant's youngest one in three cases: its tenant runs nothing and it is new;
its tenant runs less than its share of what the two run; or the richer tenant is ahead by a quantum of service. The
last lets more tenants than there are places take turns; the quantum keeps them from doing so at every step.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from redoma_model.engine.fair_share import Account, FairShare
from redoma_model.engine.sequence import NO_SLOT, Sequence

# Service, in weighted tokens, by which a tenant must be ahead of another to give a place up to it.
QUANTUM = 512.0
# How fast the estimate of a line's pace follows.
INTERVAL_FOLLOWS = 0.2


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is to give away.

    Attributes:
        slots: Requests that run at once.
        spare_slots: Beyond them, for tenants that run nothing.
    """

    slots: int
    spare_slots: int

    @property
    def all_slots(self) -> int:
        """Spare ones included."""
        return self.slots + self.spare_slots


@dataclass(slots=True, eq=False)
class Line:
    """A tenant's requests: those that wait, the first first, and those that run, the youngest last.

    Attributes:
        interval_s: Seconds between two admissions while some waited, lately; 0 while that is not known.
    """

    account: Account
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    interval_s: float = 0.0
    _admitted_at: float | None = None

    def note_admission(self, now: float) -> None:
        """Learns how fast the line moves from the admission of one of its requests for the first time."""
        if self._admitted_at is not None:
            self.interval_s += INTERVAL_FOLLOWS * (now - self._admitted_at - self.interval_s)
        self._admitted_at = now if self.waiting else None


class Seating(Protocol):
    """What a place costs and how one is given up, in cells and copies."""

    def fits(self, sequence: Sequence, without: Collection[Sequence]) -> bool:
        """Tells whether there would be cells for a sequence if those running ones were not there."""
        ...

    def seat(self, sequence: Sequence) -> bool:
        """Gives a sequence that has a slot its cells, and tells whether there were enough."""
        ...

    def preempt(self, sequence: Sequence) -> None:
        """Takes a running sequence's place; calls Scheduler.preempt."""
        ...


class Scheduler:
    """Holds the waiting and the running sequences. Not thread-safe: the engine's thread owns it."""

    def __init__(self, capacity: Capacity, fair: FairShare) -> None:
        self.capacity = capacity
        self.fair = fair
        self._lines: dict[str, Line] = {}
        self._free_slots = list(range(capacity.all_slots - 1, -1, -1))
        self.running: list[Sequence] = []
        self.waiting = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    @property
    def free_slots(self) -> int:
        """Ordinary slots that nobody has."""
        return max(0, self.capacity.slots - len(self.running))

    @property
    def all_slots_free(self) -> bool:
        """Whether no sequence has a slot, by the books of slots."""
        return len(self._free_slots) == self.capacity.all_slots

    def lines(self) -> Iterator[Line]:
        """Gives the lines of all tenants that have requests."""
        return iter(self._lines.values())

    def line(self, tenant: str) -> Line | None:
        """Gives a tenant's line, if it has requests."""
        return self._lines.get(tenant)

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence at the end of its tenant's line and counts it in."""
        request = sequence.request
        sequence.account = self.fair.join(request.tenant, request.weight)
        line = self._lines.setdefault(request.tenant, Line(sequence.account))
        if not line.waiting:
            # As a tenant that begins to ask for more than it has, it starts no lower than those who ask already.
            sequence.account.lift(other.account for other in self._lines.values() if other.waiting)
        line.waiting.append(sequence)
        self.waiting += 1

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, waiting or running, and counts it out."""
        line = self._lines[sequence.request.tenant]
        if sequence.slot == NO_SLOT:
            line.waiting.remove(sequence)
            self.waiting -= 1
        else:
            self._leave(sequence, line)
        if not line.waiting and not line.running:
            del self._lines[sequence.request.tenant]
        self.fair.leave(sequence.account)

    def preempt(self, sequence: Sequence) -> None:
        """Takes a running sequence's slot and puts it at the head of its tenant's line."""
        line = self._lines[sequence.request.tenant]
        self._leave(sequence, line)
        line.waiting.appendleft(sequence)
        self.waiting += 1

    def admit(self, seating: "Seating") -> list[Sequence]:
        """Gives places to waiting sequences, the poorest tenants' first, as far as places go."""
        admitted: list[Sequence] = []
        # Tenants whose first request can't be placed now; their other requests don't overtake it.
        stuck: set[str] = set()
        while self.waiting and (line := self._poorest(stuck)) is not None:
            sequence = line.waiting[0]
            victims = self._victims(sequence, line, admitted, seating)
            for victim in victims or ():
                seating.preempt(victim)
            if victims is not None and self._sit(sequence, line, seating):
                admitted.append(sequence)
            else:
                stuck.add(sequence.request.tenant)
        return admitted

    def richest(self) -> Sequence | None:
        """Gives the sequence to preempt when the running ones can't all go on; None when only one runs."""
        if len(self.running) < 2:
            return None
        line = max((line for line in self._lines.values() if line.running), key=lambda line: line.account.counter)
        return line.running[-1]

    def _sit(self, sequence: Sequence, line: Line, seating: "Seating") -> bool:
        sequence.slot = self._free_slots.pop()
        if not seating.seat(sequence):
            self._free_slots.append(sequence.slot)
            sequence.slot = NO_SLOT
            return False
        line.waiting.popleft()
        self.waiting -= 1
        line.running.append(sequence)
        self.running.append(sequence)
        return True

    def _victims(
        self, sequence: Sequence, line: Line, admitted: list[Sequence], seating: "Seating"
    ) -> list[Sequence] | None:
        """Gives the running sequences that are to make room for a waiting one, most often none; None when even those
        that may be asked to would not make enough."""
        victims: list[Sequence] = []
        while not (self._has_slot(line, len(victims)) and seating.fits(sequence, victims)):
            victim = self._next_victim(sequence, line, [*admitted, *victims])
            if victim is None:
                return None
            victims.append(victim)
        for victim in victims[:-1]:
            spared = [other for other in victims if other is not victim]
            if self._has_slot(line, len(spared)) and seating.fits(sequence, spared):
                victims = spared
        return victims

    def _has_slot(self, line: Line, leaving: int) -> bool:
        ordinary = len(self.running) - leaving < self.capacity.slots
        return len(self._free_slots) + leaving > 0 and (ordinary or not line.running)

    def _next_victim(self, sequence: Sequence, line: Line, spared: list[Sequence]) -> Sequence | None:
        """Gives the next running sequence whose place `sequence` may take, or None."""
        others = [other for other in self._lines.values() if other.running and other is not line]
        for other in sorted(others, key=lambda other: -other.account.counter):
            left = [running for running in other.running if running not in spared]
            if left and self._may_take(sequence, line, other, len(left)):
                return left[-1]
        return None

    def _may_take(self, sequence: Sequence, line: Line, other: Line, theirs_running: int) -> bool:
        mine, theirs = line.account, other.account
        if mine.counter > theirs.counter:
            return False
        if not line.running and not sequence.is_preempted and not self._poorer_preempted(mine):
            return True
        if (len(line.running) + 1) * theirs.weight <= (theirs_running - 1) * mine.weight:
            return True
        return theirs.counter - mine.counter >= QUANTUM / mine.weight

    def _poorer_preempted(self, mine: Account) -> bool:
        """Tells whether another tenant, no richer, waits for a place that it gave up."""
        lines = (line for line in self._lines.values() if line.waiting and line.account is not mine)
        return any(line.waiting[0].is_preempted and line.account.counter <= mine.counter for line in lines)

    def _poorest(self, stuck: set[str]) -> Line | None:
        waiting = (line for tenant, line in self._lines.items() if line.waiting and tenant not in stuck)
        return min(waiting, key=lambda line: line.account.counter, default=None)

    def _leave(self, sequence: Sequence, line: Line) -> None:
        line.running.remove(sequence)
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT
