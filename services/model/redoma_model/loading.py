"""How settings become a loaded model. Importing it brings llama.cpp into the process."""

from functools import partial

from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.llama import LlamaLoader
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.settings import ModelSettings


class LlamaModels:
    """Loads models with llama.cpp. Those of one file share its weights when the same LlamaModels loads them."""

    def __init__(self) -> None:
        self._loader = LlamaLoader()

    def __call__(self, settings: ModelSettings) -> BackendLoader:
        """Gives what loads the model of `settings`."""
        return partial(self._loader.load, llama_options(settings))


def llama_options(settings: ModelSettings) -> LlamaOptions:
    """Says how llama.cpp is to load and run the model."""
    return LlamaOptions(
        path=settings.file,
        context_tokens=settings.context_tokens,
        slots=settings.slots,
        cells=settings.kv_cells,
        step_tokens=settings.effective_step_tokens,
        threads=settings.threads,
        gpu_layers=settings.gpu.layers,
        devices=settings.gpu.devices,
        main_gpu=settings.gpu.main_gpu,
        split_mode=settings.gpu.split_mode,
        flash_attention=settings.flash_attention,
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        mmap=settings.mmap,
        mlock=settings.mlock,
    )
