"""The memory of one step's batch: arrays that are filled with a few slice assignments and no call per token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import DecodeFailed
from redoma_model.engine.batch import Chunk


class StepBatch:
    """A batch, filled anew for each step.

    Attributes:
        tokens: Token ids; `positions`, `slots` and `outputs` belong to the same places.
        positions: Of each token in its sequence.
        slots: Which sequence each token belongs to.
        outputs: 1 where a result is wanted.
        counts: How many sequences each token belongs to: 1.
        slot_addresses: Where in memory the sequences of each token stand: its place in `slots`.
        size: How many places are filled.
    """

    __slots__ = ("counts", "outputs", "positions", "size", "slot_addresses", "slots", "tokens")

    def __init__(self, capacity: int) -> None:
        self.tokens: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.positions: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.slots: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.outputs: NDArray[np.int8] = np.zeros(capacity, np.int8)
        self.counts: NDArray[np.int32] = np.ones(capacity, np.int32)
        self.slot_addresses = self.slots.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
        self.size = 0

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Writes the chunks and gives the places whose logits are wanted.

        Raises:
            DecodeFailed: They are more than the batch holds.
        """
        total = sum(chunk.count + len(chunk.drafts) for chunk in chunks)
        if total > len(self.tokens):
            raise DecodeFailed(f"a step of {total} tokens was asked for, and {len(self.tokens)} is the most")
        end = 0
        rows: list[int] = []
        for chunk in chunks:
            sequence = chunk.sequence
            begin, done, drafts = end, sequence.computed, chunk.drafts
            end = begin + chunk.count
            if chunk.count == 1 and not drafts:
                self.tokens[begin] = sequence.tokens[done]
                self.positions[begin] = done
                self.slots[begin] = sequence.slot
            else:
                self.tokens[begin:end] = sequence.tokens[done : done + chunk.count]
                if drafts:
                    self.tokens[end : end + len(drafts)] = drafts
                    end += len(drafts)
                self.positions[begin:end] = range(done, done + end - begin)
                self.slots[begin:end] = sequence.slot
            self.outputs[begin:end] = 0
            if chunk.completes:
                first = begin + chunk.count - 1
                self.outputs[first:end] = 1
                rows += range(first, end)
        self.size = end
        return rows

    def fill_pooled(self, chunks: Sequence[Chunk]) -> list[slice]:
        """Writes the chunks, wants a result for each token, and gives the places of each chunk.

        Raises:
            DecodeFailed: They are more than the batch holds.
        """
        self.fill(chunks)
        self.outputs[: self.size] = 1
        places: list[slice] = []
        end = 0
        for chunk in chunks:
            begin, end = end, end + chunk.count + len(chunk.drafts)
            places.append(slice(begin, end))
        return places
