"""llama.cpp as a backend: the only module that touches llama_cpp.

It uses the C functions directly. The batch's memory is numpy's, so that a step is filled with a few slice assignments
and no call per token.
"""

import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from ctypes import addressof, c_char_p, c_float, c_int8, c_int32, c_uint8, cast
from functools import partial
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
from llama_cpp._ggml import libggml
from numpy.typing import NDArray

from redoma_model.engine.adapter_file import check_adapter
from redoma_model.engine.backend import (
    AdapterFileError,
    BadLogits,
    DecodeFailed,
    GrammarError,
    ModelInfo,
    Progress,
    TokenLogprob,
)
from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.devices import list_devices, select_devices
from redoma_model.engine.gguf import GgufHeader, read_model, recommended_sampling
from redoma_model.engine.hardware import available_memory_bytes, physical_cores
from redoma_model.engine.lane import Lane
from redoma_model.engine.llama_log import LlamaLog
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.engine.memory import MemoryEstimate, ModelShape, estimate_memory, shape_of
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sharing import Shared
from redoma_model.engine.step_batch import StepBatch
from redoma_model.engine.text import THINK_CLOSE, THINK_OPEN
from redoma_model.errors import MemoryInsufficient, ModelFileError
from redoma_model.forms.grammar_cost import check_grammar_cost
from redoma_model.forms.json_schema import schema_to_gbnf

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
# Sampling takes some 50 us and is called for each sequence right after a step: keep the interpreter lock, rather than
# stand in line for it again behind the event loop each time.
_sample = ctypes.PyDLL(lib._lib._name).llama_sampler_sample
_sample.argtypes = [lib.llama_sampler_p_ctypes, lib.llama_context_p_ctypes, c_int32]
_sample.restype = c_int32
# Processor time that following a grammar may take for one token; all other sequences wait for it.
MOST_GRAMMAR_S = 0.5
# llama.cpp takes this seed for "random".
_RANDOM_SEED = 0xFFFF_FFFF


class LlamaVocabulary:
    """A model's tokens. Usable from any thread."""

    __slots__ = ("_ends", "_pieces", "_texts", "_vocab", "adds_bos", "bos", "eos", "markers", "pointer", "size")

    def __init__(self, vocab: lib.llama_vocab_p) -> None:
        self._vocab = self.pointer = vocab
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


def _floats(address: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Gives the array at an address, which stays llama.cpp's."""
    flat: NDArray[np.float32] = np.ctypeslib.as_array((c_float * (rows * columns)).from_address(address))
    return flat.reshape(rows, columns)


def _batch_struct(batch: StepBatch) -> lib.llama_batch:
    """Gives the llama_batch over the memory of `batch`, which must outlive it."""
    int32 = ctypes.POINTER(c_int32)
    return lib.llama_batch(
        0,
        cast(batch.tokens.ctypes.data, int32),
        None,
        cast(batch.positions.ctypes.data, int32),
        cast(batch.counts.ctypes.data, int32),
        cast(batch.slot_addresses.ctypes.data, ctypes.POINTER(int32)),
        cast(batch.outputs.ctypes.data, ctypes.POINTER(c_int8)),
    )


class LlamaAdapter:
    """A LoRA adapter that llama.cpp holds, as Lane.adapter names it."""

    __slots__ = ("pointer",)

    def __init__(self, pointer: lib.llama_adapter_lora_p) -> None:
        self.pointer = pointer


class _Greedy:
    """Stands for the sampler of a sequence that takes the most probable token as it is."""


_GREEDY = _Greedy()


class _Constrained:
    """The sampler chain of a sequence whose answer follows a grammar, and that grammar's sampler."""

    __slots__ = ("chain", "grammar")

    def __init__(self, chain: "lib.llama_sampler_p", grammar: "lib.llama_sampler_p") -> None:
        self.chain = chain
        self.grammar = grammar


class _Candidates:
    """All tokens with their logits, as llama.cpp's samplers take them, filled anew for each constrained token."""

    __slots__ = ("_all", "_ids", "_one")

    def __init__(self, vocabulary_size: int) -> None:
        layout = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(vocabulary_size, dtype=np.int32)
        self._all = np.zeros(vocabulary_size, layout)
        self._one = np.zeros(1, layout)

    def sample(self, sampler: _Constrained, logits: NDArray[np.float32]) -> int:
        """Picks a token that the grammar allows and lets both samplers see it.

        The chain picks first, from all tokens; only when the grammar refuses that one, it picks again, from those that
        the grammar allows. The random state then moves on by two draws, still the same ones for the same seed.

        Raises:
            BadLogits: No token that the grammar allows is possible, or the grammar takes too long to follow.
        """
        began_s = time.thread_time()
        self._fill(logits)
        token = self._pick(sampler)
        if not self._allowed(sampler, token):
            self._fill(logits)
            lib.llama_sampler_apply(sampler.grammar, ctypes.byref(_token_array(self._all)))
            if self._all["logit"].max() == -math.inf:
                raise BadLogits("the grammar allows no token")
            token = self._pick(sampler)
            # Accepting a token that the grammar refuses ends the process.
            if not self._allowed(sampler, token):
                raise BadLogits("no token that the grammar allows is possible")
        lib.llama_sampler_accept(sampler.chain, token)
        lib.llama_sampler_accept(sampler.grammar, token)
        if time.thread_time() - began_s > MOST_GRAMMAR_S:
            raise BadLogits("the grammar takes too long to follow")
        return token

    def follow(self, sampler: _Constrained, tokens: Sequence[int]) -> bool:
        """Lets the grammar see tokens, and tells whether it allows them all."""
        for token in tokens:
            if not self._allowed(sampler, token):
                return False
            lib.llama_sampler_accept(sampler.grammar, token)
        return True

    def _fill(self, logits: NDArray[np.float32]) -> None:
        self._all["id"] = self._ids
        self._all["logit"] = logits
        self._all["p"] = 0

    def _pick(self, sampler: _Constrained) -> int:
        array = _token_array(self._all)
        lib.llama_sampler_apply(sampler.chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise BadLogits("nothing was picked")
        return int(array.data[array.selected].id)

    def _allowed(self, sampler: _Constrained, token: int) -> bool:
        self._one[0] = (token, 0, 0)
        lib.llama_sampler_apply(sampler.grammar, ctypes.byref(_token_array(self._one)))
        return bool(self._one["logit"][0] == 0)


def _token_array(candidates: "NDArray[np.void]") -> lib.llama_token_data_array:
    data = cast(candidates.ctypes.data, lib.llama_token_data_p)
    return lib.llama_token_data_array(data, len(candidates), -1, False)


class LlamaWeights:
    """A model's weights, over which there may be several contexts."""

    __slots__ = ("metadata", "model", "vocabulary")

    def __init__(self, model: lib.llama_model_p, headers: Sequence[GgufHeader]) -> None:
        self.model = model
        self.metadata = headers[0]
        self.vocabulary = LlamaVocabulary(lib.llama_model_get_vocab(model))

    def free(self) -> None:
        """Frees them; no context may be left."""
        lib.llama_model_free(self.model)


class LlamaBackend:
    """A model loaded by llama.cpp, with one context over all sequences."""

    def __init__(
        self,
        weights: LlamaWeights,
        context: lib.llama_context_p,
        info: ModelInfo,
        step_tokens: int,
        log: LlamaLog,
        give_back: Callable[[], None],
    ) -> None:
        """Takes a context of its own over `weights`; `give_back` is called when it is closed."""
        vocabulary = weights.vocabulary
        self._weights = weights
        self._context = context
        self._vocabulary = vocabulary
        self._info = info
        self._log = log
        self._give_back = give_back
        # Adapters belong to the weights; those still loaded go with the context.
        self._adapters: set[LlamaAdapter] = set()
        self._memory = lib.llama_get_memory(context)
        self._batch = StepBatch(step_tokens)
        self._struct = _batch_struct(self._batch)
        self._lane = Lane()
        self._chunks: list[slice] = []
        self._rows: list[int] = []
        self._logits: NDArray[np.float32] = np.zeros((0, vocabulary.size), np.float32)
        self._candidates = _Candidates(vocabulary.size)
        self.tokenize = vocabulary.tokenize
        self.piece = vocabulary.piece
        self.is_end = vocabulary.is_end

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self._info

    def schema_grammar(self, schema: object) -> str:
        """Translates a JSON Schema to GBNF."""
        return schema_to_gbnf(schema)

    def check_grammar(self, grammar: str) -> None:
        """Checks that a sampler can follow a grammar."""
        check_grammar_cost(grammar)
        self._log.last_error = ""
        lib.llama_sampler_free(self._grammar_sampler(grammar))

    def _grammar_sampler(self, grammar: str) -> "lib.llama_sampler_p":
        sampler: lib.llama_sampler_p = lib.llama_sampler_init_grammar(
            self._vocabulary.pointer, grammar.encode(), b"root"
        )
        if not sampler:
            raise GrammarError(f"llama.cpp can't follow the grammar: {self._log.last_error or 'it gave no reason'}.")
        return sampler

    def load_adapter(self, path: Path) -> object:
        """Loads a LoRA adapter over the model."""
        check_adapter(path, self._weights.metadata.text("general.architecture"))
        self._log.last_error = ""
        pointer = lib.llama_adapter_lora_init(self._weights.model, str(path).encode())
        if not pointer:
            reason = self._log.last_error or "llama.cpp gave no reason"
            raise AdapterFileError(f"{path} can't be loaded as an adapter of this model: {reason}.")
        adapter = LlamaAdapter(pointer)
        self._adapters.add(adapter)
        return adapter

    def free_adapter(self, handle: object) -> None:
        """Frees an adapter; the context forgets it first, as it keeps the pointer of the last step's."""
        if self._lane.adapter is handle:
            self._enter(Lane())
        if isinstance(handle, LlamaAdapter):
            self._adapters.remove(handle)
            lib.llama_adapter_lora_free(handle.pointer)

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        """Makes the sampler of one sequence; with a grammar, one that `check_grammar` let pass."""
        if sampling.greedy:
            return _GREEDY
        chain = self._chain(sampling, seed, prompt)
        if not sampling.grammar:
            return chain
        sampler = _Constrained(chain, self._grammar_sampler(sampling.grammar))
        if not self._candidates.follow(sampler, sampling.begun):
            self.free_sampler(sampler)
            raise GrammarError("What is said already is not the beginning of what the grammar allows.")
        return sampler

    def _chain(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> "lib.llama_sampler_p":
        """Makes a sampler chain: bias, penalties, top_k, top_p, min_p, temperature, then the draw."""
        size = self._vocabulary.size
        chain: lib.llama_sampler_p = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
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
        """Frees a sampler."""
        if isinstance(sampler, _Constrained):
            lib.llama_sampler_free(sampler.grammar)
            lib.llama_sampler_free(sampler.chain)
        elif sampler is not _GREEDY:
            lib.llama_sampler_free(sampler)

    def decode(self, chunks: Sequence[Chunk], lane: Lane) -> None:
        """Computes one step."""
        if lane is not self._lane and lane != self._lane:
            self._enter(lane)
        if lane.pooled:
            self._rows, self._chunks = [], self._batch.fill_pooled(chunks)
        else:
            self._rows = self._batch.fill(chunks)
        self._struct.n_tokens = self._batch.size
        status = lib.llama_decode(self._context, self._struct)
        if status == 1:
            raise OutOfCells
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status}")
        if self._rows:
            size = self._vocabulary.size
            first = addressof(lib.llama_get_logits(self._context).contents)
            self._logits = _floats(first, len(self._rows), size)

    def _enter(self, lane: Lane) -> None:
        """Makes the next steps those of `lane`; llama.cpp plans its work anew when the adapter is another."""
        if (lane.adapter, lane.scale) != (self._lane.adapter, self._lane.scale):
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)()
            count = 0
            if isinstance(lane.adapter, LlamaAdapter):
                adapters[0], count = cast(lane.adapter.pointer, lib.llama_adapter_lora_p_ctypes), 1
            lib.llama_set_adapters_lora(self._context, adapters, count, (c_float * 1)(lane.scale))
        if lane.pooled != self._lane.pooled:
            lib.llama_set_embeddings(self._context, lane.pooled)
        self._lane = lane

    def pooled(self, place: int) -> NDArray[np.float32]:
        """Gives the sum of a chunk's last hidden states."""
        first = addressof(lib.llama_get_embeddings(self._context).contents)
        states = _floats(first, self._batch.size, self._info.embedding_size)[self._chunks[place]]
        total: NDArray[np.float32] = states.sum(axis=0, dtype=np.float32)
        return total

    def sample(self, sampler: object, row: int, constrained: bool = True) -> int:
        """Picks a token from a row of the last step's logits."""
        logits = self._logits[row]
        best = int(logits.argmax())
        # The maximum of an array that holds a NaN is the NaN.
        if not math.isfinite(logits[best]):
            raise BadLogits(f"the largest logit is {logits[best]}")
        if sampler is _GREEDY:
            return best
        if isinstance(sampler, _Constrained):
            if constrained:
                return self._candidates.sample(sampler, logits)
            sampler = sampler.chain
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

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Makes cells of `source` belong to `target` too."""
        lib.llama_memory_seq_cp(self._memory, source, target, begin, end)

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        """Takes cells from a sequence."""
        lib.llama_memory_seq_rm(self._memory, sequence, begin, -1 if end is None else end)

    def save(self, sequence: int) -> bytes:
        """Copies a sequence's cells to host memory."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        saved = np.empty(size, np.uint8)
        target = cast(saved.ctypes.data, ctypes.POINTER(c_uint8))
        written = lib.llama_state_seq_get_data(self._context, target, size, sequence)
        return saved[:written].tobytes()

    def restore(self, sequence: int, saved: bytes) -> None:
        """Fills an empty sequence with saved cells."""
        source = cast(c_char_p(saved), ctypes.POINTER(c_uint8))
        if not lib.llama_state_seq_set_data(self._context, source, len(saved), sequence):
            self.forget(sequence)
            raise OutOfCells

    def span(self, sequence: int) -> range:
        """Gives the positions of a sequence's cells."""
        first = lib.llama_memory_seq_pos_min(self._memory, sequence)
        return range(first, lib.llama_memory_seq_pos_max(self._memory, sequence) + 1) if first >= 0 else range(0)

    def close(self) -> None:
        """Frees the context and its adapters, then gives the weights back."""
        lib.llama_free(self._context)
        for adapter in self._adapters:
            lib.llama_adapter_lora_free(adapter.pointer)
        self._give_back()


class LlamaLoader:
    """Loads models one at a time; those of one file share its weights, as long as one of them is loaded."""

    def __init__(self, free_bytes: Callable[[], int] = available_memory_bytes) -> None:
        self._free_bytes = free_bytes
        self._log = LlamaLog()
        self._begun = False
        self._loading = threading.Lock()
        self._weights: Shared[LlamaWeights] = Shared(LlamaWeights.free)

    def estimate(self, options: LlamaOptions) -> MemoryEstimate:
        """Estimates what `load` would take.

        Raises:
            ModelFileError: The file is no model, or is cut short.
        """
        key = _weights_key(options)
        return self._estimate(options, shape_of(read_model(options.path)), key in self._weights)

    def load(self, options: LlamaOptions, progress: Progress) -> LlamaBackend:
        """Loads a model.

        Raises:
            ModelFileError: The file is no model that can be served, or is cut short.
            MemoryInsufficient: It does not fit the memory that is free.
        """
        headers = read_model(options.path)
        key = _weights_key(options)
        with self._loading:
            self._begin()
            estimate = self._estimate(options, shape_of(headers), key in self._weights)
            if not estimate.fits:
                raise MemoryInsufficient(options.path.name, estimate.needed_bytes, estimate.available_bytes or 0)
            weights = self._weights.take(key)
            if weights is None:
                weights = LlamaWeights(_load_model(options, progress, self._log), headers)
                self._weights.add(key, weights)
            try:
                context, info = _create_context(options, weights, estimate.cells, self._log)
            except BaseException:
                self._weights.give_back(key)
                raise
            give_back = partial(self._weights.give_back, key)
            return LlamaBackend(weights, context, info, options.step_tokens, self._log, give_back)

    def _begin(self) -> None:
        if not self._begun:
            self._log.install(lib)
            lib.llama_backend_init()
            _log.info("llama.cpp %s: %s", _text(lib.llama_version()), _text(lib.llama_print_system_info()).strip())
            self._begun = True

    def _estimate(self, options: LlamaOptions, shape: ModelShape, weights_loaded: bool) -> MemoryEstimate:
        return estimate_memory(shape, options, self._free_bytes() if options.gpu_layers == 0 else None, weights_loaded)


def _weights_key(options: LlamaOptions) -> Hashable:
    """Gives what must be the same for weights to be shared: the file, as it is now, and how it is loaded."""
    try:
        path = options.path.resolve()
        status = path.stat()
    except OSError as error:
        raise ModelFileError(f"The model file {options.path} can't be read: {error.strerror}.") from error
    placed = (options.gpu_layers, options.devices, options.main_gpu, options.split_mode, options.mmap, options.mlock)
    return (path, status.st_mtime_ns, status.st_size, *placed)


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
    log.last_error = ""
    model: lib.llama_model_p | None = lib.llama_model_load_from_file(str(options.path).encode(), params)
    if not model:
        raise ModelFileError(
            f"{options.path} can't be loaded as a model: {log.last_error or 'llama.cpp gave no reason'}."
        )
    try:
        _check_servable(options, model)
    except ModelFileError:
        lib.llama_model_free(model)
        raise
    return model


def _check_servable(options: LlamaOptions, model: lib.llama_model_p) -> None:
    if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        raise ModelFileError(f"{options.path} is not a model that generates text.")
    if lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model):
        raise ModelFileError(
            f"{options.path} is a model that keeps a running state in place of one cell for each token, which can't be "
            "shared or cut."
        )


def _create_context(
    options: LlamaOptions, weights: LlamaWeights, cells: int, log: LlamaLog
) -> tuple[lib.llama_context_p, ModelInfo]:
    model, vocabulary, metadata = weights.model, weights.vocabulary, weights.metadata
    context_tokens = min(options.context_tokens, lib.llama_model_n_ctx_train(model))
    if cells < context_tokens:
        raise ModelFileError(
            f"A KV cache of {cells} tokens can't hold one context window of {context_tokens}; "
            "raise kv_cells or lower context_tokens."
        )
    threads = options.threads or physical_cores()
    sequences = max(options.slots, min(options.sequences, lib.llama_max_parallel_sequences()))
    params = lib.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = options.step_tokens
    params.n_ubatch = options.step_tokens
    params.n_seq_max = sequences
    # llama.cpp ends the process when this is less than either.
    params.n_outputs_max = max(options.step_tokens, sequences)
    if f"{metadata.text('general.architecture')}.pooling_type" in metadata.metadata:
        # An embedding model would pool by itself; here the sum over a text's tokens is the engine's work.
        params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
    params.kv_unified = True
    params.n_threads = threads
    params.n_threads_batch = threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k = CACHE_TYPES[options.cache_type_k]
    params.type_v = CACHE_TYPES[options.cache_type_v]
    params.offload_kqv = options.gpu_layers != 0
    params.no_perf = True
    log.last_error = ""
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ModelFileError(
            f"No KV cache of {cells} tokens could be made for {options.path}: {log.last_error or 'out of memory'}."
        )
    template = lib.llama_model_chat_template(model, None)
    info = ModelInfo(
        display_name=metadata.text("general.name") or options.path.stem,
        parameters=lib.llama_model_n_params(model),
        size_bytes=lib.llama_model_size(model),
        quantization=_quantization(lib.llama_model_ftype(model)),
        context_tokens=context_tokens,
        slots=options.slots,
        sequences=sequences,
        cells=int(lib.llama_n_ctx(context)),
        embedding_size=lib.llama_model_n_embd_out(model),
        vocabulary_size=vocabulary.size,
        longest_token_bytes=vocabulary.longest,
        chat_template=_text(template) if template else "",
        bos_token=vocabulary.text(vocabulary.bos).decode(errors="replace"),
        eos_token=vocabulary.text(vocabulary.eos).decode(errors="replace"),
        prompt_prefix=((vocabulary.bos,) if vocabulary.adds_bos else ()),
        marker_texts=vocabulary.markers,
        recommended=recommended_sampling(metadata),
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


def _quantization(ftype: int) -> str:
    names = {
        value: name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
        for name, value in vars(lib).items()
        if name.startswith("LLAMA_FTYPE_") and isinstance(value, int)
    }
    return names.get(ftype & ~lib.LLAMA_FTYPE_GUESSED, "unknown")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
