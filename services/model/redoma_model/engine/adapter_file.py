"""A look at a LoRA adapter's file before llama.cpp opens it, as it ends the process over some that are broken."""

from pathlib import Path

from redoma_model.engine.backend import AdapterFileError
from redoma_model.engine.gguf import FLOAT32, GgufHeader, GgufTensor, read_gguf
from redoma_model.errors import ModelFileError

# ggml's numbers of the types that the weights of an adapter have: f32, f16, bf16 and q8_0.
_WEIGHT_TYPES = (0, 1, 30, 8)
_ALPHA = "adapter.lora.alpha"


def check_adapter(path: Path, architecture: str) -> None:
    """Checks that a file holds a LoRA adapter of a model of that architecture, as far as its header tells.

    Raises:
        AdapterFileError: It does not.
    """
    try:
        header = read_gguf(path)
    except ModelFileError as error:
        raise AdapterFileError(str(error)) from error
    if (header.text("general.type"), header.text("adapter.type")) != ("adapter", "lora"):
        raise AdapterFileError(f"{path} is not a LoRA adapter.")
    if (own := header.text("general.architecture")) != architecture:
        raise AdapterFileError(
            f"{path} is for models of the architecture {own!r:.100}, and this one is {architecture!r}."
        )
    if header.types.get(_ALPHA, FLOAT32) != FLOAT32:
        raise AdapterFileError(f"{path} is broken: {_ALPHA} is not a 32-bit float.")
    if any(key.startswith("adapter.alora.") for key in (*header.metadata, *header.lengths)):
        raise AdapterFileError(f"{path} is an activated LoRA adapter, which can't be applied to whole sequences.")
    _check_tensors(path, header)


def _check_tensors(path: Path, header: GgufHeader) -> None:
    pairs: dict[str, dict[str, GgufTensor]] = {}
    for tensor in header.tensors:
        name, _, side = tensor.name.rpartition(".")
        if side in ("lora_a", "lora_b"):
            pairs.setdefault(name, {})[side] = tensor
            if tensor.type not in _WEIGHT_TYPES or len(tensor.shape) < 2 or min(tensor.shape) < 1:
                raise AdapterFileError(
                    f"{path} is broken: the tensor {tensor.name:.100} has no form that weights have."
                )
    if not pairs:
        raise AdapterFileError(f"{path} holds no weights of an adapter.")
    for name, pair in pairs.items():
        if len(pair) < 2:
            raise AdapterFileError(f"{path} is broken: the weights of {name:.100} lack their other half.")
        down, up = pair["lora_a"].shape, pair["lora_b"].shape
        # llama.cpp keeps the halves of the token embedding the other way round.
        rank = down[0] if name.endswith("token_embd.weight") else down[1]
        if rank != up[0]:
            raise AdapterFileError(f"{path} is broken: the halves of {name:.100} have ranks {rank} and {up[0]}.")
