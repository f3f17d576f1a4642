"""How much memory a model will take, told from its file before it is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from redoma_model.engine.gguf import GgufHeader
from redoma_model.engine.hardware import CellBudget
from redoma_model.engine.llama_options import MOST_SEQUENCES, LlamaOptions

CACHE_BITS = {"f32": 32.0, "f16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}
# What llama.cpp takes beyond what grows with the model: its plans of the computation, threads, the vocabulary's index.
FIXED_BYTES = 32 << 20
# Copies of one layer's activations that a step keeps at once.
_ACTIVATIONS = 6


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What loading a model takes.

    Attributes:
        weights_bytes: Of the weights, mapped files included; 0 when they are loaded already.
        cache_bytes: Of the KV cache.
        compute_bytes: Of a step's results and what leads to them.
        available_bytes: Memory that is free; None when it is a device's, whose driver refuses what does not fit.
        cells: Of the KV cache.
    """

    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    available_bytes: int | None
    cells: int

    @property
    def needed_bytes(self) -> int:
        """All it takes."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes

    @property
    def fits(self) -> bool:
        """Whether it is as much as is free, or less."""
        return self.available_bytes is None or self.needed_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that its memory follows from.

    Attributes:
        context_tokens: Context window it was trained for.
        cell_values: Values cached for one token: those of keys and of values, over all layers.
    """

    weights_bytes: int
    vocabulary_size: int
    context_tokens: int
    embedding_size: int
    feed_forward_size: int
    heads: int
    cell_values: tuple[float, float]


def shape_of(parts: Sequence[GgufHeader]) -> ModelShape:
    """Reads a model's sizes out of the headers of its parts."""
    header = parts[0]
    architecture = header.text("general.architecture")

    def size(key: str, default: float) -> float:
        return header.number(f"{architecture}.{key}", default)

    layers, embedding = size("block_count", 0), size("embedding_length", 0)
    heads = max(1.0, size("attention.head_count", 1))
    key_value_heads = size("attention.head_count_kv", heads)
    key_width = size("attention.key_length", embedding / heads)
    value_width = size("attention.value_length", embedding / heads)
    return ModelShape(
        weights_bytes=sum(part.tensor_bytes for part in parts),
        vocabulary_size=header.lengths.get("tokenizer.ggml.tokens", 0),
        context_tokens=int(size("context_length", 0)),
        embedding_size=int(embedding),
        feed_forward_size=int(size("feed_forward_length", 4 * embedding)),
        heads=int(heads),
        cell_values=(layers * key_value_heads * key_width, layers * key_value_heads * value_width),
    )


def cells_of(shape: ModelShape, options: LlamaOptions, available_bytes: int | None) -> int:
    """Gives how many KV cells the model is to have: what was asked for, or by the memory there is."""
    budget = CellBudget(_bytes_per_cell(shape, options), available_bytes)
    context_tokens = min(options.context_tokens, shape.context_tokens or options.context_tokens)
    return options.cells or budget.cells(options.slots, context_tokens)


def estimate_memory(
    shape: ModelShape, options: LlamaOptions, available_bytes: int | None, weights_loaded: bool
) -> MemoryEstimate:
    """Estimates what a model takes.

    Args:
        shape: The model's sizes.
        options: How it is to run.
        available_bytes: Memory that is free; None when it is a device's.
        weights_loaded: Whether another context has loaded the same weights.
    """
    cells = cells_of(shape, options, available_bytes)
    rows = max(MOST_SEQUENCES, options.step_tokens)
    # Logits and hidden states of a whole batch: once where they are computed and once where they are read.
    results = 2 * 4 * rows * (shape.vocabulary_size + shape.embedding_size)
    width = _ACTIVATIONS * shape.embedding_size + 2 * shape.feed_forward_size
    # Scores of each head over all cells, where attention is not computed in one piece, and the mask.
    attention = 4 * (shape.heads if options.flash_attention == "off" else 2) * cells
    return MemoryEstimate(
        weights_bytes=0 if weights_loaded else shape.weights_bytes,
        cache_bytes=int(cells * _bytes_per_cell(shape, options)),
        compute_bytes=FIXED_BYTES + results + options.step_tokens * (4 * width + attention),
        available_bytes=available_bytes,
        cells=cells,
    )


def _bytes_per_cell(shape: ModelShape, options: LlamaOptions) -> float:
    keys, values = shape.cell_values
    return (keys * CACHE_BITS[options.cache_type_k] + values * CACHE_BITS[options.cache_type_v]) / 8
