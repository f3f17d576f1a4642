"""The KV cells as the engine sees them: who holds which, without what is in them."""

from typing import Protocol


class OutOfCells(Exception):
    """The KV cache has no room for the batch; nothing of it was taken."""


class CellStore(Protocol):
    """The KV cells, held by sequences: a cell may belong to several of them. Only the engine's thread calls it."""

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Makes the cells of `source` at the positions from `begin` to before `end` belong to `target` too; no copy."""
        ...

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        """Takes the cells at these positions from a sequence; a cell that belongs to no other is free."""
        ...

    def save(self, sequence: int) -> bytes:
        """Copies the cells of a sequence to host memory; it keeps them."""
        ...

    def restore(self, sequence: int, saved: bytes) -> None:
        """Fills an empty sequence with saved cells, at the positions they had.

        Raises:
            OutOfCells: No room; the sequence stays empty.
        """
        ...

    def span(self, sequence: int) -> range:
        """Gives the positions from the first to the last cell of a sequence; empty when it has none."""
        ...
