"""A context over a model's weights: its KV cells, its sequences, and what the model says of itself."""

import logging

import llama_cpp.llama_cpp as lib

from redoma_model.engine.backend import ModelInfo
from redoma_model.engine.gguf import recommended_sampling
from redoma_model.engine.hardware import physical_cores
from redoma_model.engine.llama.log import LlamaLog
from redoma_model.engine.llama.weights import LlamaWeights
from redoma_model.engine.llama_options import MOST_SEQUENCES, LlamaOptions
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
FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}


def create_context(
    options: LlamaOptions, weights: LlamaWeights, cells: int, log: LlamaLog
) -> tuple[lib.llama_context_p, ModelInfo]:
    """Makes a context of `cells` KV cells over weights.

    Raises:
        ModelFileError: The cells hold less than one context window, or there is no memory for them.
    """
    model, vocabulary, metadata = weights.model, weights.vocabulary, weights.metadata
    context_tokens = min(options.context_tokens, lib.llama_model_n_ctx_train(model))
    if cells < context_tokens:
        raise ModelFileError(
            f"A KV cache of {cells} tokens can't hold one context window of {context_tokens}; "
            "raise kv_cells or lower context_tokens."
        )
    threads = options.threads or physical_cores()
    sequences = max(options.slots, min(MOST_SEQUENCES, lib.llama_max_parallel_sequences()))
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
        chat_template=(template or b"").decode(errors="replace"),
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
