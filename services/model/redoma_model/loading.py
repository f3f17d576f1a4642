"""How settings become a loaded model. Importing it brings llama.cpp into the process."""

from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.llama import LlamaOptions, load_llama
from redoma_model.settings import ModelSettings


def llama_loader(settings: ModelSettings) -> BackendLoader:
    """Gives what loads the model of `settings` with llama.cpp."""
    options = llama_options(settings)
    return lambda progress: load_llama(options, progress)


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
