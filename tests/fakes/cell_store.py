"""KV cells in memory that remember what they were computed from, and for whom, so that sharing a wrong one is seen."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from redoma_model.engine.cells import OutOfCells

# Whose a cell is: the tenant it was computed for and the adapter it was computed under, however they are told apart.
Owner = tuple[str, object]
_SAVED_CELL = struct.Struct("<iii")


@dataclass(slots=True, eq=False)
class Cell:
    """A cell: its token with all before it decide its content, and so does who computed it, under which adapter.

    Attributes:
        content: A number for its token and all before it, as FakeCellStore.contents gives.
        sequences: Which sequences hold it.
    """

    position: int
    content: int
    owner: Owner
    sequences: set[int] = field(default_factory=set)


class FakeCellStore:
    """Keeps cells as llama.cpp does, by sequence and position, and refuses what would give a sequence a wrong one.

    Attributes:
        capacity: Cells there are.
        used: Cells that hold a token; one that several sequences hold counts once.
    """

    def __init__(self, capacity: int, sequences: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._held: list[dict[int, Cell]] = [{} for _ in range(sequences)]
        # Each text that was ever asked about, by that of all tokens but the last, and the last.
        self._contents: dict[tuple[int, int], int] = {}
        self._owners: list[Owner] = []

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self.capacity - self.used

    @property
    def cells(self) -> list[Cell]:
        """All cells that hold a token."""
        return list({id(cell): cell for held in self._held for cell in held.values()}.values())

    def contents(self, tokens: Sequence[int], before: int = -1) -> list[int]:
        """Gives the content of each token's cell, after one of content `before`; -1 is at the beginning."""
        contents: list[int] = []
        for token in tokens:
            before = self._contents.setdefault((before, token), len(self._contents))
            contents.append(before)
        return contents

    def compute(self, sequence: int, tokens: Sequence[int], begin: int, end: int, owner: Owner) -> None:
        """Fills cells with tokens of a sequence, as a step does.

        Raises:
            OutOfCells: They are more than are free; none was filled.
        """
        held = self._of(sequence)
        assert len(held) == begin, f"sequence {sequence} has {len(held)} cells and goes on at {begin}"
        contents = self.contents(tokens[begin:end], held[begin - 1].content if begin else -1)
        self._add(sequence, [Cell(begin + place, content, owner) for place, content in enumerate(contents)])

    def content(self, sequence: int) -> list[Cell]:
        """Gives the cells of a sequence, which must have one at each position from 0 on."""
        held = self._of(sequence)
        assert sorted(held) == list(range(len(held))), f"sequence {sequence} has a gap"
        return [held[position] for position in range(len(held))]

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Lets `target` have cells of `source`, all of which must exist and take no place twice."""
        given, held = self._of(source), self._of(target)
        for position in range(begin, end):
            assert position in given, f"sequence {source} has no position {position}"
            assert position not in held, f"sequence {target} has position {position} already"
            given[position].sequences.add(target)
            held[position] = given[position]

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        """Takes cells from a sequence."""
        held = self._of(sequence)
        for position in [one for one in held if begin <= one and (end is None or one < end)]:
            cell = held.pop(position)
            cell.sequences.remove(sequence)
            self.used -= not cell.sequences

    def save(self, sequence: int) -> bytes:
        """Copies the cells of a sequence."""
        cells = self._of(sequence).values()
        return b"".join(_SAVED_CELL.pack(cell.position, cell.content, self._index(cell.owner)) for cell in cells)

    def restore(self, sequence: int, saved: bytes) -> None:
        """Copies saved cells into an empty sequence."""
        assert not self._of(sequence), f"sequence {sequence} is not empty"
        found = _SAVED_CELL.iter_unpack(saved)
        self._add(sequence, [Cell(position, content, self._owners[owner]) for position, content, owner in found])

    def span(self, sequence: int) -> range:
        """Gives the positions from the first to the last cell of a sequence."""
        held = self._of(sequence)
        return range(min(held), max(held) + 1) if held else range(0)

    def _of(self, sequence: int) -> dict[int, Cell]:
        assert 0 <= sequence < len(self._held), f"no sequence {sequence}"
        return self._held[sequence]

    def _add(self, sequence: int, cells: Sequence[Cell]) -> None:
        if len(cells) > self.free:
            raise OutOfCells
        self.used += len(cells)
        for cell in cells:
            cell.sequences.add(sequence)
            self._held[sequence][cell.position] = cell

    def _index(self, owner: Owner) -> int:
        if owner not in self._owners:
            self._owners.append(owner)
        return self._owners.index(owner)
