"""The KV cells of one context: shared, dropped, copied to host memory and back."""

import ctypes
from ctypes import c_char_p, c_uint8, cast

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.cells import OutOfCells

# Most of a copy's size that is kept to make the next ones in.
MOST_SCRATCH_BYTES = 64 << 20


class LlamaCells:
    """The KV cells of a context: a CellStore."""

    __slots__ = ("_context", "_memory", "_scratch")

    def __init__(self, context: lib.llama_context_p) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._scratch: NDArray[np.uint8] = np.empty(0, np.uint8)

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Makes cells of `source` belong to `target` too."""
        lib.llama_memory_seq_cp(self._memory, source, target, begin, end)

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        """Takes cells from a sequence."""
        lib.llama_memory_seq_rm(self._memory, sequence, begin, -1 if end is None else end)

    def save(self, sequence: int) -> bytes:
        """Copies a sequence's cells to host memory."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        scratch = self._scratch if size <= self._scratch.size else np.empty(size, np.uint8)
        target = cast(scratch.ctypes.data, ctypes.POINTER(c_uint8))
        written = lib.llama_state_seq_get_data(self._context, target, size, sequence)
        if scratch.size <= MOST_SCRATCH_BYTES:
            self._scratch = scratch
        return scratch[:written].tobytes()

    def restore(self, sequence: int, saved: bytes) -> None:
        """Fills an empty sequence with saved cells."""
        source = cast(c_char_p(saved), ctypes.POINTER(c_uint8))
        if not lib.llama_state_seq_set_data(self._context, source, len(saved), sequence):
            self.forget(sequence)
            raise OutOfCells

    def span(self, sequence: int) -> range:
        """Gives the positions of a sequence's cells."""
        first = lib.llama_memory_seq_pos_min(self._memory, sequence)
        return range(first, lib.llama_memory_seq_pos_max(self._memory, sequence) + 1) if first >= 0 else range(0)
