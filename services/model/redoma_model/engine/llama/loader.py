"""Loads models, and lets those of one file share its weights."""

import logging
import threading
from collections.abc import Callable
from functools import partial

import llama_cpp.llama_cpp as lib

from redoma_model.engine.backend import Progress
from redoma_model.engine.gguf import read_model
from redoma_model.engine.hardware import available_memory_bytes
from redoma_model.engine.llama.backend import LlamaBackend
from redoma_model.engine.llama.context import create_context
from redoma_model.engine.llama.log import LlamaLog
from redoma_model.engine.llama.weights import LlamaWeights, load_model, weights_key
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.engine.memory import MemoryEstimate, ModelShape, estimate_memory, shape_of
from redoma_model.engine.sharing import Shared
from redoma_model.errors import MemoryInsufficient

_log = logging.getLogger(__name__)


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
        key = weights_key(options)
        return self._estimate(options, shape_of(read_model(options.path)), key in self._weights)

    def load(self, options: LlamaOptions, progress: Progress) -> LlamaBackend:
        """Loads a model.

        Raises:
            ModelFileError: The file is no model that can be served, or is cut short.
            MemoryInsufficient: It does not fit the memory that is free.
        """
        headers = read_model(options.path)
        key = weights_key(options)
        with self._loading:
            self._begin()
            estimate = self._estimate(options, shape_of(headers), key in self._weights)
            if not estimate.fits:
                raise MemoryInsufficient(options.path.name, estimate.needed_bytes, estimate.available_bytes or 0)
            weights = self._weights.take(key)
            if weights is None:
                weights = LlamaWeights(load_model(options, progress, self._log), headers)
                self._weights.add(key, weights)
            try:
                context, info = create_context(options, weights, estimate.cells, self._log)
            except BaseException:
                self._weights.give_back(key)
                raise
            give_back = partial(self._weights.give_back, key)
            return LlamaBackend(weights, context, info, options.step_tokens, self._log, give_back)

    def _begin(self) -> None:
        if not self._begun:
            self._log.install(lib)
            lib.llama_backend_init()
            version, system = lib.llama_version().decode(), lib.llama_print_system_info().decode()
            _log.info("llama.cpp %s: %s", version, system.strip())
            self._begun = True

    def _estimate(self, options: LlamaOptions, shape: ModelShape, weights_loaded: bool) -> MemoryEstimate:
        return estimate_memory(shape, options, self._free_bytes() if options.gpu_layers == 0 else None, weights_loaded)
