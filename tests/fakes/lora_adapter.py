"""Writes small LoRA adapters in GGUF, as llama.cpp's converter lays them out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """What an adapter is to hold.

    Attributes:
        architecture: Of the base model.
        shapes: Inputs and outputs of each weight of the base model that it changes, by name.
        seed: Of its random values: another seed is another adapter.
        strength: How much it changes; 0 changes nothing.
    """

    architecture: str
    shapes: Mapping[str, tuple[int, int]]
    rank: int = 4
    alpha: float = 8.0
    seed: int = 1
    strength: float = 1.0


# The query projections of SmolLM2-135M's first four layers.
SMOLLM2 = {f"blk.{layer}.attn_q.weight": (576, 576) for layer in range(4)}


def write_lora(path: Path, spec: LoraSpec) -> Path:
    """Writes an adapter and gives its path."""
    random = np.random.default_rng(spec.seed)
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, spec.alpha)
    for name, (inputs, outputs) in spec.shapes.items():
        down: NDArray[np.float32] = random.normal(0, inputs**-0.5, (spec.rank, inputs)).astype(np.float32)
        up: NDArray[np.float32] = random.normal(0, spec.strength, (outputs, spec.rank)).astype(np.float32)
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
