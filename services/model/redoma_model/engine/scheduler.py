"""Which requests run: first come, first served, within the slots and the KV cells there are.

A request is admitted when a slot is free and its prompt plus a headroom for its answer fit the cells nobody has
reserved; none overtakes another. The headroom is less than the worst case, so that ordinary requests fill all slots.
When the cells run out all the same, the youngest running request gives its cells up, waits at the head of the queue and
is computed again from its tokens: its stream only pauses. The oldest never does, and a context window fits the cells,
so every request comes to its end.
"""

from collections import deque

from redoma_model.engine.batch import Chunk, compose
from redoma_model.engine.sequence import NO_SLOT, Sequence


class Scheduler:
    """Holds the waiting and the running sequences. Not thread-safe: the engine's thread owns it."""

    __slots__ = ("_cells", "_free_slots", "_headroom_tokens", "_step_tokens", "running", "waiting")

    def __init__(self, slots: int, cells: int, step_tokens: int, headroom_tokens: int) -> None:
        """Makes a scheduler.

        Args:
            slots: How many sequences run at once.
            cells: Tokens the KV cache holds.
            step_tokens: Most tokens of one step; more than `slots`.
            headroom_tokens: Cells set aside for the answer of a request when it is admitted.
        """
        self._cells = cells
        self._step_tokens = step_tokens
        self._headroom_tokens = headroom_tokens
        self._free_slots = list(range(slots - 1, -1, -1))
        self.waiting: deque[Sequence] = deque()
        # In the order of admission, which is the order of arrival.
        self.running: list[Sequence] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    @property
    def used_cells(self) -> int:
        """KV cells that hold a token."""
        return sum(sequence.computed for sequence in self.running)

    @property
    def free_slots(self) -> int:
        """How many more sequences could run."""
        return len(self._free_slots)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Gives slots to the sequences at the head of the queue, as many as fit."""
        admitted: list[Sequence] = []
        reserved = sum(max(sequence.reserved_cells, len(sequence.tokens)) for sequence in self.running)
        while self.waiting and self._free_slots:
            sequence = self.waiting[0]
            to_come = sequence.limit - sequence.output_tokens
            needed = len(sequence.tokens) + min(to_come, self._headroom_tokens)
            if self.running and reserved + needed > self._cells:
                break
            self.waiting.popleft()
            sequence.slot = self._free_slots.pop()
            sequence.reserved_cells = needed
            reserved += needed
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def next_step(self) -> list[Chunk]:
        """Composes the next step out of the running sequences, no larger than the free cells."""
        return compose(self.running, min(self._step_tokens, self._cells - self.used_cells))

    @property
    def short_of_cells(self) -> bool:
        """Whether the running sequences can't all go on by one token."""
        return len(self.running) > 1 and self.used_cells + len(self.running) > self._cells

    def preempt_youngest(self) -> tuple[Sequence, int] | None:
        """Takes slot and cells from the youngest running sequence and puts it at the head of the queue.

        Returns the sequence and the slot it had, or None when only one runs.
        """
        if len(self.running) < 2:
            return None
        sequence = self.running[-1]
        slot = self.remove(sequence)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        return sequence, slot

    def remove(self, sequence: Sequence) -> int:
        """Takes a sequence out, waiting or running, and gives the slot it had or NO_SLOT."""
        slot = sequence.slot
        if slot == NO_SLOT:
            self.waiting.remove(sequence)
            return NO_SLOT
        self.running.remove(sequence)
        self._free_slots.append(slot)
        sequence.slot = NO_SLOT
        return slot
