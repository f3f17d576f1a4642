"""A model's weights: loaded onto the devices the operator chose, and told apart for sharing."""

import ctypes
import logging
from collections.abc import Hashable, Sequence
from ctypes import cast

import llama_cpp.llama_cpp as lib
from llama_cpp._ggml import libggml

from redoma_model.engine.backend import Progress
from redoma_model.engine.devices import list_devices, select_devices
from redoma_model.engine.gguf import GgufHeader
from redoma_model.engine.llama.log import LlamaLog
from redoma_model.engine.llama.vocabulary import LlamaVocabulary
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.errors import ModelFileError

_log = logging.getLogger(__name__)
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


def weights_key(options: LlamaOptions) -> Hashable:
    """Gives what must be the same for weights to be shared: the file, as it is now, and how it is loaded."""
    try:
        path = options.path.resolve()
        status = path.stat()
    except OSError as error:
        raise ModelFileError(f"The model file {options.path} can't be read: {error.strerror}.") from error
    placed = (options.gpu_layers, options.devices, options.main_gpu, options.split_mode, options.mmap, options.mlock)
    return (path, status.st_mtime_ns, status.st_size, *placed)


def load_model(options: LlamaOptions, progress: Progress, log: LlamaLog) -> lib.llama_model_p:
    """Loads the weights alone.

    Raises:
        ModelFileError: llama.cpp can't load them, there is no device of a name, or they are of no model that can be
            served.
    """
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
