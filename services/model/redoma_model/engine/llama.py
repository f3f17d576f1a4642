"""llama.cpp as a backend: the only module that touches llama_cpp.

It uses the C functions directly. The batch's memory is numpy's, so that a step is filled with a few slice assignments
and no call per token.
"""

import ctypes
import logging
import math
from collections.abc import Sequence
from ctypes import addressof, c_float, c_int8, c_int32, cast
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
from llama_cpp._ggml import libggml
from numpy.typing import NDArray

from redoma_model.engine.backend import BadLogits, DecodeFailed, ModelInfo, OutOfCells, Progress, TokenLogprob
from redoma_model.engine.batch import Chunk
from redoma_model.engine.devices import list_devices, select_devices
from redoma_model.engine.gguf import check_gguf
from redoma_model.engine.hardware import CellBudget, available_memory_bytes, physical_cores
from redoma_model.engine.llama_log import LlamaLog
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.text import THINK_CLOSE, THINK_OPEN
from redoma_model.errors import ModelFileError

_log = logging.getLogger(__name__)

CACHE_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
}
CACHE_BITS = {"f32": 32.0, "f16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}
FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}
SPLIT_MODES = {
    "none": lib.LLAMA_SPLIT_MODE_NONE,
    "layer": lib.LLAMA_SPLIT_MODE_LAYER,
    "row": lib.LLAMA_SPLIT_MODE_ROW,
}
LOAD_MODES = {
    (False, False): lib.LLAMA_LOAD_MODE_NONE,
    (True, False): lib.LLAMA_LOAD_MODE_MMAP,
    (False, True): lib.LLAMA_LOAD_MODE_MLOCK,
    (True, True): lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
_CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_MARKER = _CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
_RECOMMENDED = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}
# Sampling takes some 50 us and is called for each sequence right after a step: keep the interpreter lock, rather than
# stand in line for it again behind the event loop each time.
_sample = ctypes.PyDLL(lib._lib._name).llama_sampler_sample
_sample.argtypes = [lib.llama_sampler_p_ctypes, lib.llama_context_p_ctypes, c_int32]
_sample.restype = c_int32
# llama.cpp takes this seed for "random".
_RANDOM_SEED = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How to load and run a model.

    Attributes:
        context_tokens: Context window of one request; the model's own when that is smaller.
        slots: How many sequences at once.
        cells: Tokens of KV cache; 0 sizes it by the memory there is.
        step_tokens: Most tokens of one step.
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


class LlamaVocabulary:
    """A model's tokens. Usable from any thread."""

    __slots__ = ("_ends", "_pieces", "_texts", "_vocab", "adds_bos", "bos", "eos", "markers", "size")

    def __init__(self, vocab: lib.llama_vocab_p) -> None:
        self._vocab = vocab
        self.size = lib.llama_vocab_n_tokens(vocab)
        self.bos = lib.llama_vocab_bos(vocab)
        self.eos = lib.llama_vocab_eos(vocab)
        self.adds_bos = self.bos >= 0 and bool(lib.llama_vocab_get_add_bos(vocab))
        self._texts: list[bytes] = [self._read(token) for token in range(self.size)]
        self._pieces = list(self._texts)
        self._ends = frozenset(token for token in range(self.size) if lib.llama_vocab_is_eog(vocab, token))
        markers: list[str] = []
        shown = {THINK_OPEN.encode(), THINK_CLOSE.encode()}
        for token, text in enumerate(self._texts):
            attributes = lib.llama_vocab_get_attr(vocab, token)
            if attributes & _CONTROL and text not in shown:
                self._pieces[token] = b""
            if attributes & _MARKER and text.strip():
                markers.append(text.decode(errors="replace"))
        self.markers = tuple(markers)

    def _read(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    @property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max((len(text) for text in self._texts), default=1) or 1

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Gives the tokens of `text`."""
        data = text.encode()
        room = len(data) + 2
        buffer = (c_int32 * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), buffer, room, False, parse_special)
        if count < 0:
            buffer = (c_int32 * -count)()
            count = lib.llama_tokenize(self._vocab, data, len(data), buffer, -count, False, parse_special)
        return buffer[:count]

    def text(self, token: int) -> bytes:
        """Gives a token's text, control tokens included; empty for no token."""
        return self._texts[token] if 0 <= token < self.size else b""

    def piece(self, token: int) -> bytes:
        """Gives what the token adds to an answer."""
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """Tells whether the token ends an answer."""
        return token in self._ends


class _StepBatch:
    """One llama_batch over numpy memory, filled anew for each step."""

    __slots__ = ("_keep", "outputs", "positions", "slots", "struct", "tokens")

    def __init__(self, size: int) -> None:
        self.tokens: NDArray[np.int32] = np.zeros(size, np.int32)
        self.positions: NDArray[np.int32] = np.zeros(size, np.int32)
        self.slots: NDArray[np.int32] = np.zeros(size, np.int32)
        self.outputs: NDArray[np.int8] = np.zeros(size, np.int8)
        counts: NDArray[np.int32] = np.ones(size, np.int32)
        # Each token belongs to one sequence: its seq_id points at its own place in `slots`.
        pointers = self.slots.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        self._keep = (counts, pointers)
        int32 = ctypes.POINTER(c_int32)
        self.struct = lib.llama_batch(
            0,
            cast(self.tokens.ctypes.data, int32),
            None,
            cast(self.positions.ctypes.data, int32),
            cast(counts.ctypes.data, int32),
            cast(pointers.ctypes.data, ctypes.POINTER(int32)),
            cast(self.outputs.ctypes.data, ctypes.POINTER(c_int8)),
        )

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Writes the chunks and gives the places in the batch whose logits are computed."""
        end = 0
        rows: list[int] = []
        for chunk in chunks:
            sequence = chunk.sequence
            begin, end = end, end + chunk.count
            done = sequence.computed
            if chunk.count == 1:
                self.tokens[begin] = sequence.tokens[done]
                self.positions[begin] = done
                self.slots[begin] = sequence.slot
            else:
                self.tokens[begin:end] = sequence.tokens[done : done + chunk.count]
                self.positions[begin:end] = range(done, done + chunk.count)
                self.slots[begin:end] = sequence.slot
            self.outputs[begin:end] = 0
            if chunk.completes:
                self.outputs[end - 1] = 1
                rows.append(end - 1)
        self.struct.n_tokens = end
        return rows


class _Greedy:
    """Stands for the sampler of a sequence that takes the most probable token as it is."""


_GREEDY = _Greedy()


class LlamaBackend:
    """A model loaded by llama.cpp, with one context over all sequences."""

    def __init__(
        self,
        model: lib.llama_model_p,
        context: lib.llama_context_p,
        vocabulary: LlamaVocabulary,
        info: ModelInfo,
        step_tokens: int,
    ) -> None:
        self._model = model
        self._context = context
        self._vocabulary = vocabulary
        self._info = info
        self._memory = lib.llama_get_memory(context)
        self._batch = _StepBatch(step_tokens)
        self._rows: list[int] = []
        self._logits: NDArray[np.float32] = np.zeros((0, vocabulary.size), np.float32)
        self.tokenize = vocabulary.tokenize
        self.piece = vocabulary.piece
        self.is_end = vocabulary.is_end

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self._info

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        """Makes a sampler chain: bias, penalties, top_k, top_p, min_p, temperature, then the draw."""
        if sampling.greedy:
            return _GREEDY
        size = self._vocabulary.size
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        add = lib.llama_sampler_chain_add
        if sampling.logit_bias:
            biases = (lib.llama_logit_bias * len(sampling.logit_bias))()
            for place, (token, bias) in enumerate(sampling.logit_bias.items()):
                biases[place] = lib.llama_logit_bias(token, -math.inf if bias <= -100 else bias)
            add(chain, lib.llama_sampler_init_logit_bias(size, len(biases), biases))
        window = self._info.context_tokens
        if sampling.repeat_penalty != 1:
            repeat = lib.llama_sampler_init_penalties(size, window, sampling.repeat_penalty, 0.0, 0.0)
            for token in prompt:
                lib.llama_sampler_accept(repeat, token)
            add(chain, repeat)
        if sampling.presence_penalty != 0 or sampling.frequency_penalty != 0:
            add(
                chain,
                lib.llama_sampler_init_penalties(
                    size, window, 1.0, sampling.frequency_penalty, sampling.presence_penalty
                ),
            )
        if sampling.temperature == 0:
            add(chain, lib.llama_sampler_init_greedy())
            return chain
        if sampling.top_k > 0:
            add(chain, lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            add(chain, lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            add(chain, lib.llama_sampler_init_min_p(sampling.min_p, 1))
        add(chain, lib.llama_sampler_init_temp(sampling.temperature))
        add(chain, lib.llama_sampler_init_dist(seed if seed != _RANDOM_SEED else _RANDOM_SEED - 1))
        return chain

    def free_sampler(self, sampler: object) -> None:
        """Frees a sampler chain."""
        if sampler is not _GREEDY:
            lib.llama_sampler_free(sampler)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Computes one step."""
        self._rows = self._batch.fill(chunks)
        status = lib.llama_decode(self._context, self._batch.struct)
        if status == 1:
            raise OutOfCells
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status}")
        if self._rows:
            size = self._vocabulary.size
            first = addressof(lib.llama_get_logits(self._context).contents)
            flat = (c_float * (len(self._rows) * size)).from_address(first)
            self._logits = np.frombuffer(flat, np.float32).reshape(len(self._rows), size)

    def sample(self, sampler: object, row: int) -> int:
        """Picks a token from a row of the last step's logits."""
        logits = self._logits[row]
        best = int(logits.argmax())
        # The maximum of an array that holds a NaN is the NaN.
        if not math.isfinite(logits[best]):
            raise BadLogits(f"the largest logit is {logits[best]}")
        if sampler is _GREEDY:
            return best
        return int(_sample(sampler, self._context, self._rows[row]))

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """Gives log probabilities: the log-softmax of the logits as the model gave them."""
        logits = self._logits[row]
        largest = float(logits.max())
        norm = largest + math.log(float(np.exp(logits - largest, dtype=np.float64).sum()))
        rivals: tuple[TokenLogprob, ...] = ()
        if top:
            indices = np.argpartition(logits, -top)[-top:]
            indices = indices[np.argsort(-logits[indices], kind="stable")]
            rivals = tuple(self._logprob(int(index), logits, norm) for index in indices)
        return TokenLogprob(token, self._vocabulary.text(token), min(0.0, float(logits[token]) - norm), rivals)

    def _logprob(self, token: int, logits: NDArray[np.float32], norm: float) -> TokenLogprob:
        return TokenLogprob(token, self._vocabulary.text(token), min(0.0, float(logits[token]) - norm))

    @property
    def held_cells(self) -> int:
        """KV cells that hold a token: the positions each slot reaches."""
        return sum(lib.llama_memory_seq_pos_max(self._memory, slot) + 1 for slot in range(self._info.slots))

    def forget(self, slot: int) -> None:
        """Frees every KV cell of a slot."""
        lib.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def close(self) -> None:
        """Frees the context, then the weights."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def load_llama(options: LlamaOptions, progress: Progress) -> LlamaBackend:
    """Loads a model.

    Raises:
        ModelFileError: The file is no model, is cut short, or does not fit the memory.
    """
    check_gguf(options.path)
    log = LlamaLog()
    log.install(lib)
    lib.llama_backend_init()
    _log.info("llama.cpp %s: %s", _text(lib.llama_version()), _text(lib.llama_print_system_info()).strip())
    model = _load_model(options, progress, log)
    try:
        vocabulary = LlamaVocabulary(lib.llama_model_get_vocab(model))
        context, info = _create_context(options, model, vocabulary, log)
    except BaseException:
        lib.llama_model_free(model)
        raise
    return LlamaBackend(model, context, vocabulary, info, options.step_tokens)


def _load_model(options: LlamaOptions, progress: Progress, log: LlamaLog) -> lib.llama_model_p:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.split_mode = SPLIT_MODES[options.split_mode]
    params.main_gpu = options.main_gpu
    params.load_mode = LOAD_MODES[options.mmap, options.mlock]
    devices = list_devices(libggml)
    for device in devices:
        _log.info(
            "Device %s (%s): %d of %d MiB free.",
            device.name,
            device.description,
            device.free_bytes >> 20,
            device.total_bytes >> 20,
        )
    selected = select_devices(devices, options.devices)
    if options.devices:
        params.devices = cast(selected, ctypes.c_void_p)

    def report(part: float, _: object) -> bool:
        return progress(part)

    callback = lib.llama_progress_callback(report)
    params.progress_callback = callback
    model: lib.llama_model_p | None = lib.llama_model_load_from_file(str(options.path).encode(), params)
    if not model:
        raise ModelFileError(
            f"{options.path} can't be loaded as a model: {log.last_error or 'llama.cpp gave no reason'}."
        )
    return model


def _create_context(
    options: LlamaOptions, model: lib.llama_model_p, vocabulary: LlamaVocabulary, log: LlamaLog
) -> tuple[lib.llama_context_p, ModelInfo]:
    if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        raise ModelFileError(f"{options.path} is not a model that generates text.")
    metadata = _metadata(model)
    context_tokens = min(options.context_tokens, lib.llama_model_n_ctx_train(model))
    cells = options.cells or CellBudget(
        bytes_per_cell=_bytes_per_cell(options, model, metadata),
        available_bytes=available_memory_bytes() if options.gpu_layers == 0 else None,
    ).cells(options.slots, context_tokens)
    if cells < context_tokens:
        raise ModelFileError(
            f"A KV cache of {cells} tokens can't hold one context window of {context_tokens}; "
            "raise kv_cells or lower context_tokens."
        )
    threads = options.threads or physical_cores()
    params = lib.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = options.step_tokens
    params.n_ubatch = options.step_tokens
    params.n_seq_max = options.slots
    params.kv_unified = True
    params.n_threads = threads
    params.n_threads_batch = threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k = CACHE_TYPES[options.cache_type_k]
    params.type_v = CACHE_TYPES[options.cache_type_v]
    params.offload_kqv = options.gpu_layers != 0
    params.no_perf = True
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ModelFileError(
            f"No KV cache of {cells} tokens could be made for {options.path}: {log.last_error or 'out of memory'}."
        )
    template = lib.llama_model_chat_template(model, None)
    info = ModelInfo(
        display_name=metadata.get("general.name", options.path.stem),
        parameters=lib.llama_model_n_params(model),
        size_bytes=lib.llama_model_size(model),
        quantization=_quantization(lib.llama_model_ftype(model)),
        context_tokens=context_tokens,
        slots=options.slots,
        cells=int(lib.llama_n_ctx(context)),
        vocabulary_size=vocabulary.size,
        longest_token_bytes=vocabulary.longest,
        chat_template=_text(template) if template else "",
        bos_token=vocabulary.text(vocabulary.bos).decode(errors="replace"),
        eos_token=vocabulary.text(vocabulary.eos).decode(errors="replace"),
        prompt_prefix=((vocabulary.bos,) if vocabulary.adds_bos else ()),
        marker_texts=vocabulary.markers,
        recommended=_recommended_sampling(metadata),
    )
    _log.info(
        "Loaded %s (%s, %d parameters, %d MiB): %d slots, %d tokens of context each, %d KV cells of type %s/%s, "
        "%d threads, %d layers on a GPU of %d.",
        info.display_name,
        info.quantization,
        info.parameters,
        info.size_bytes >> 20,
        info.slots,
        info.context_tokens,
        info.cells,
        options.cache_type_k,
        options.cache_type_v,
        threads,
        _offloaded(options, model),
        lib.llama_model_n_layer(model) + 1,
    )
    return context, info


def _offloaded(options: LlamaOptions, model: lib.llama_model_p) -> int:
    layers = lib.llama_model_n_layer(model) + 1
    if not lib.llama_supports_gpu_offload():
        return 0
    return int(layers if options.gpu_layers < 0 else min(options.gpu_layers, layers))


def _bytes_per_cell(options: LlamaOptions, model: lib.llama_model_p, metadata: dict[str, str]) -> float:
    architecture = metadata.get("general.architecture", "")
    heads = max(1, lib.llama_model_n_head(model))
    width = lib.llama_model_n_embd(model) / heads
    key = float(metadata.get(f"{architecture}.attention.key_length", width))
    value = float(metadata.get(f"{architecture}.attention.value_length", width))
    bits = key * CACHE_BITS[options.cache_type_k] + value * CACHE_BITS[options.cache_type_v]
    return float(lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * bits / 8)


def _metadata(model: lib.llama_model_p) -> dict[str, str]:
    """Reads the short values of the model's metadata; a longer one, such as a template, is cut."""
    buffer = ctypes.create_string_buffer(512)
    metadata: dict[str, str] = {}
    for index in range(lib.llama_model_meta_count(model)):
        lib.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
        name = _text(buffer.value)
        lib.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer))
        metadata[name] = _text(buffer.value)
    return metadata


def _recommended_sampling(metadata: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in _RECOMMENDED.items():
        try:
            found[value] = float(metadata[f"general.sampling.{name}"])
        except (KeyError, ValueError):
            continue
    return found


def _quantization(ftype: int) -> str:
    names = {
        value: name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
        for name, value in vars(lib).items()
        if name.startswith("LLAMA_FTYPE_") and isinstance(value, int)
    }
    return names.get(ftype & ~lib.LLAMA_FTYPE_GUESSED, "unknown")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
