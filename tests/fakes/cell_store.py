"""KV cells in memory that remember what they were computed from, so that sharing a wrong one is seen."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

from redoma_model.engine.cells import OutOfCells


@dataclass(slots=True, eq=False)
class Cell:
    """A cell: its token with all before it decide its content, and so does who computed it, under which adapter."""

    prefix: tuple[int, ...]
    owner: tuple[str, str]
    sequences: set[int] = field(default_factory=set)

    @property
    def position(self) -> int:
        """Where its token stands."""
        return len(self.prefix) - 1


class FakeCellStore:
    """Keeps cells as llama.cpp does, by sequence and position, and refuses what would give a sequence a wrong one."""

    def __init__(self, cells: int) -> None:
        self.capacity = cells
        self.cells: list[Cell] = []

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self.capacity - len(self.cells)

    def compute(self, sequence: int, tokens: Sequence[int], begin: int, end: int, owner: tuple[str, str]) -> None:
        """Fills cells with tokens of a sequence, as a step does."""
        assert len(self._of(sequence)) == begin, "a step goes on where the sequence ends"
        if end - begin > self.free:
            raise OutOfCells
        self.cells += [Cell(tuple(tokens[: at + 1]), owner, {sequence}) for at in range(begin, end)]

    def content(self, sequence: int) -> list[Cell]:
        """Gives the cells of a sequence, which must have one at each position from 0 on."""
        cells = self._of(sequence)
        assert [cell.position for cell in cells] == list(range(len(cells))), "the sequence has a gap or a double"
        return cells

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Lets `target` have cells of `source`, all of which must exist and take no place twice."""
        shared = [cell for cell in self._of(source) if begin <= cell.position < end]
        assert [cell.position for cell in shared] == list(range(begin, end)), "the source lacks some of the cells"
        assert not any(begin <= cell.position < end for cell in self._of(target)), "the target has a cell there"
        for cell in shared:
            cell.sequences.add(target)

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        """Takes cells from a sequence."""
        for cell in self._of(sequence):
            if begin <= cell.position and (end is None or cell.position < end):
                cell.sequences.discard(sequence)
        self.cells = [cell for cell in self.cells if cell.sequences]

    def save(self, sequence: int) -> bytes:
        """Copies the cells of a sequence."""
        return pickle.dumps([(cell.prefix, cell.owner) for cell in self._of(sequence)])

    def restore(self, sequence: int, saved: bytes) -> None:
        """Copies saved cells into an empty sequence."""
        assert not self._of(sequence), "the sequence has cells"
        cells = [Cell(prefix, owner, {sequence}) for prefix, owner in pickle.loads(saved)]
        if len(cells) > self.free:
            raise OutOfCells
        self.cells += cells

    def span(self, sequence: int) -> range:
        """Gives the positions from the first to the last cell of a sequence."""
        positions = [cell.position for cell in self._of(sequence)]
        return range(positions[0], positions[-1] + 1) if positions else range(0)

    def _of(self, sequence: int) -> list[Cell]:
        return sorted((cell for cell in self.cells if sequence in cell.sequences), key=lambda cell: cell.position)
