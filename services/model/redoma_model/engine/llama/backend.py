"""A loaded model as the engine's backend: steps, their lanes and adapters, and what they give."""

import math
from collections.abc import Callable, Sequence
from ctypes import addressof, c_float, cast
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.adapter_file import check_adapter
from redoma_model.engine.backend import AdapterFileError, DecodeFailed, ModelInfo, TokenLogprob
from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.lane import Lane
from redoma_model.engine.llama.arrays import batch_struct, floats
from redoma_model.engine.llama.cells import LlamaCells
from redoma_model.engine.llama.log import LlamaLog
from redoma_model.engine.llama.samplers import LlamaSamplers
from redoma_model.engine.llama.weights import LlamaWeights
from redoma_model.engine.step_batch import StepBatch
from redoma_model.forms.json_schema import schema_to_gbnf


class LlamaAdapter:
    """A LoRA adapter that llama.cpp holds, as Lane.adapter names it."""

    __slots__ = ("pointer",)

    def __init__(self, pointer: lib.llama_adapter_lora_p) -> None:
        self.pointer = pointer


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
        self._batch = StepBatch(step_tokens)
        self._struct = batch_struct(self._batch)
        self._lane = Lane()
        self._chunks: list[slice] = []
        self._rows: list[int] = []
        self._logits: NDArray[np.float32] = np.zeros((0, vocabulary.size), np.float32)
        self._samplers = LlamaSamplers(vocabulary, context, info.context_tokens, log)
        self.tokenize = vocabulary.tokenize
        self.piece = vocabulary.piece
        self.is_end = vocabulary.is_end
        self.check_grammar = self._samplers.check_grammar
        self.create_sampler = self._samplers.create
        self.free_sampler = self._samplers.free
        cells = LlamaCells(context)
        self.share = cells.share
        self.forget = cells.forget
        self.save = cells.save
        self.restore = cells.restore
        self.span = cells.span

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self._info

    def schema_grammar(self, schema: object) -> str:
        """Translates a JSON Schema to GBNF."""
        return schema_to_gbnf(schema)

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
            self._logits = floats(first, len(self._rows), size)

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
        states = floats(first, self._batch.size, self._info.embedding_size)[self._chunks[place]]
        total: NDArray[np.float32] = states.sum(axis=0, dtype=np.float32)
        return total

    def sample(self, sampler: object, row: int, constrained: bool = True) -> int:
        """Picks a token from a row of the last step's logits."""
        return self._samplers.pick(sampler, self._logits[row], self._rows[row], constrained)

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

    def close(self) -> None:
        """Frees the context and its adapters, then gives the weights back."""
        lib.llama_free(self._context)
        for adapter in self._adapters:
            lib.llama_adapter_lora_free(adapter.pointer)
        self._give_back()
