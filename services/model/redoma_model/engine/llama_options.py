"""How llama.cpp is to load and run a model, in an operator's words; `llama` turns them into llama.cpp's numbers."""

from dataclasses import dataclass
from pathlib import Path

# Most sequences that llama.cpp tells apart in one context.
MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How to load and run a model.

    Attributes:
        context_tokens: Context window of one request; the model's own when that is smaller.
        slots: How many requests at once.
        cells: Tokens of KV cache; 0 sizes it by the memory there is.
        step_tokens: Most tokens of one step, drafts included.
        threads: 0 is one for each physical core the process may use.
        gpu_layers: Layers to offload; -1 is all.
        devices: Names of the devices to use; empty is all.
        main_gpu: Index of the device for what is not split.
        split_mode: How a model is spread over devices: none, layer or row.
        flash_attention: on, off or auto.
        cache_type_k: Type of the cached keys; so `cache_type_v` for the values.
    """

    path: Path
    context_tokens: int = 8_192
    slots: int = 16
    cells: int = 0
    step_tokens: int = 64
    threads: int = 0
    gpu_layers: int = 0
    devices: tuple[str, ...] = ()
    main_gpu: int = 0
    split_mode: str = "layer"
    flash_attention: str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    mmap: bool = True
    mlock: bool = False
