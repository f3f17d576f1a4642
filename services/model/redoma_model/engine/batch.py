"""The batching policy: which tokens of which sequences make up the next step."""

from collections.abc import Iterable
from dataclasses import dataclass

from redoma_model.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence that one step computes, from the first that is not in the KV cache.

    Attributes:
        sequence: Whose tokens.
        count: How many, at least 1.
    """

    sequence: Sequence
    count: int

    @property
    def completes(self) -> bool:
        """Whether nothing of the sequence is left to compute after it, so that its logits give the next token."""
        return self.count == self.sequence.pending


def compose(running: Iterable[Sequence], budget: int) -> list[Chunk]:
    """Composes a step of at most `budget` tokens out of the running sequences, oldest first.

    Every sequence that is generating gets its one token first, so that a long prompt never stalls it; what is left of
    the budget goes to the prompts, in the order of their admission, in chunks.
    """
    chunks: list[Chunk] = []
    prompts: list[Sequence] = []
    for sequence in running:
        if sequence.is_prefill:
            prompts.append(sequence)
        elif budget > 0:
            chunks.append(Chunk(sequence, 1))
            budget -= 1
    for sequence in prompts:
        if budget <= 0:
            break
        count = min(sequence.pending, budget)
        chunks.append(Chunk(sequence, count))
        budget -= count
    return chunks
