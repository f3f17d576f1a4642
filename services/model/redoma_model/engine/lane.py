"""What the sequences of one step have in common."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lane:
    """What llama.cpp applies to a whole step, so that sequences of different lanes are computed in different steps.

    Attributes:
        adapter: Handle of the LoRA adapter, from Backend.load_adapter; None is the base model.
        scale: What the adapter's weights are multiplied with.
        pooled: Whether the step gives hidden states for embeddings, in place of logits.
    """

    adapter: object | None = None
    scale: float = 1.0
    pooled: bool = False


BASE_LANE = Lane()
POOLED_LANE = Lane(pooled=True)
