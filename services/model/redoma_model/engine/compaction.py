"""Moving cells together: a processor reads a sequence's cells much faster when they lie side by side.

llama.cpp puts new tokens wherever cells are free. Once sequences have ended, that is in the many gaps they left, so
that each running one comes to be strewn over the whole KV cache; the attention over it then waits for memory and
mispredicts its branches. From time to time all cells are copied to host memory and back, which puts each sequence
in one piece at the beginning.
"""

from collections.abc import Callable, Collection, Iterable

from redoma_model.engine.cells import CellStore
from redoma_model.engine.prefix_cache import PrefixCache
from redoma_model.engine.sequence import Sequence

# Cells are moved when this part of them was put into gaps: rarely enough to cost a hundredth of the time of steps.
SCATTERED_PART = 1 / 3
# Fewer are not worth it.
LEAST_SCATTERED = 256
# What moving a cell takes until that was seen, in seconds, and how fast the estimate follows.
CELL_S = 15e-6
FOLLOWS = 0.5


class Compaction:
    """Counts how many cells were put into gaps, and moves all of them. Not thread-safe: the engine's thread owns it."""

    def __init__(self, store: CellStore, cache: PrefixCache, clock: Callable[[], float]) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._cell_s = CELL_S
        # The most cells in use since they were moved last: llama.cpp fills gaps below before it goes on above.
        self._top = 0
        self._scattered = 0

    def count(self, used_before: int, rows: int, tokens: int) -> None:
        """Counts a step that put so many tokens into cells, of which each of `rows` is alone, when so many were in use.

        A prompt's tokens stay together.
        """
        if not used_before:
            self._top = self._scattered = 0
        self._scattered += max(0, min(rows, self._top - used_before))
        self._top = max(self._top, used_before + tokens)

    def is_due(self, used_cells: int, most_s: float) -> bool:
        """Tells whether moving the cells is worth its time, and takes at most so many seconds."""
        is_worth_it = self._scattered >= max(LEAST_SCATTERED, SCATTERED_PART * used_cells)
        return is_worth_it and used_cells * self._cell_s <= most_s

    def run(self, running: Collection[Sequence], most_bytes: int) -> bool:
        """Moves all cells together, unless their copies would take more than `most_bytes`; tells whether it did."""
        began = self._clock()
        self._scattered = self._top = 0
        shares = [(sequence.slot, sequence.lease) for sequence in running if sequence.lease is not None]
        for slot, lease in shares:
            # The cache's nodes have these cells as well.
            self._store.forget(slot, 0, lease.length)
        own = [sequence.slot for sequence in running if sequence.own_cells]
        copies = self._copy([*self._cache.ids, *own], most_bytes)
        for holder in copies:
            self._store.forget(holder)
        for holder, cells in copies.items():
            self._store.restore(holder, cells)
        for slot, lease in shares:
            self._cache.share(lease, slot)
        if moved := self._cache.cells + sum(sequence.own_cells for sequence in running):
            self._cell_s += FOLLOWS * ((self._clock() - began) / moved - self._cell_s)
        return bool(copies)

    def _copy(self, holders: Iterable[int], most_bytes: int) -> dict[int, bytes]:
        copies: dict[int, bytes] = {}
        for holder in holders:
            copies[holder] = self._store.save(holder)
            most_bytes -= len(copies[holder])
            if most_bytes < 0:
                return {}
        return copies
