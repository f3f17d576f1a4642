"""The limit to measure against: a bare loop over `llama_decode`, with nothing of Redoma in it.

One batch over all sequences and one sampler chain each. Prompts are computed in batches of the engine's size, then
every step generates one token for every sequence. Nobody comes, leaves or waits; there are no tenants and no text.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import llama_cpp.llama_cpp as lib

from redoma_model.engine.sampling import Sampling
from tests.bench.load import Sample

Tokens = tuple[int, ...]


class BareLoop:
    """A model and a context of its own, on a thread of its own."""

    def __init__(self, model: Path, sequences: int, cells: int, step_tokens: int, threads: int) -> None:
        """Loads the model.

        Args:
            model: A GGUF file.
            sequences: Most of them at once.
            cells: Tokens of KV cache.
            step_tokens: Most tokens of a batch.
            threads: That compute.
        """
        self._stack = ExitStack()
        self._worker = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="bare-loop"))
        lib.llama_backend_init()
        loaded = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        if not loaded:
            raise RuntimeError(f"{model} can't be loaded.")
        self._stack.callback(lib.llama_model_free, loaded)
        params = lib.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = step_tokens
        params.n_seq_max = sequences
        params.n_outputs_max = max(step_tokens, sequences)
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = lib.llama_init_from_model(loaded, params)
        if not self._context:
            raise RuntimeError(f"A context of {cells} tokens can't be made.")
        self._stack.callback(lib.llama_free, self._context)
        self._step_tokens = step_tokens
        self._batch = lib.llama_batch_init(step_tokens, 0, 1)
        self._stack.callback(lib.llama_batch_free, self._batch)

    def close(self) -> None:
        """Frees the context and the model."""
        self._stack.close()

    def measure(self, prompts: Sequence[Tokens], tokens: int) -> Sample:
        """Generates `tokens` tokens after each prompt, on the loop's own thread, and waits for it."""
        return self._worker.submit(self._run, prompts, tokens).result()

    def _run(self, prompts: Sequence[Tokens], tokens: int) -> Sample:
        samplers = [_chain(Sampling(), place) for place in range(len(prompts))]
        try:
            began = time.perf_counter()
            last, firsts = self._prefill(prompts, samplers, began)
            positions = [len(prompt) for prompt in prompts]
            prefilled = time.perf_counter()
            for _ in range(tokens - 1):
                last = self._generate(last, positions, samplers)
            ended = time.perf_counter()
        finally:
            lib.llama_memory_clear(lib.llama_get_memory(self._context), False)
            for sampler in samplers:
                lib.llama_sampler_free(sampler)
        rate, full = len(prompts) * tokens / (ended - began), len(prompts) * (tokens - 1) / (ended - prefilled)
        return Sample(rate, full, tuple(firsts), 1.0)

    def _prefill(
        self, prompts: Sequence[Tokens], samplers: Sequence["lib.llama_sampler_p"], began: float
    ) -> tuple[list[int], list[float]]:
        """Computes all prompts, one after the other, in full batches; gives each one's first token and its time."""
        last, firsts = [0] * len(prompts), [0.0] * len(prompts)
        ends: list[tuple[int, int]] = []
        self._batch.n_tokens = 0
        for place, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                is_end = position == len(prompt) - 1
                if is_end:
                    ends.append((place, self._batch.n_tokens))
                self._put(place, position, token, is_end)
                if self._batch.n_tokens == self._step_tokens or (is_end and place == len(prompts) - 1):
                    self._decode()
                    for sequence, row in ends:
                        last[sequence] = lib.llama_sampler_sample(samplers[sequence], self._context, row)
                        firsts[sequence] = time.perf_counter() - began
                    ends.clear()
                    self._batch.n_tokens = 0
        return last, firsts

    def _generate(
        self, last: Sequence[int], positions: list[int], samplers: Sequence["lib.llama_sampler_p"]
    ) -> list[int]:
        """Computes one step: a token of each sequence."""
        self._batch.n_tokens = 0
        for place, token in enumerate(last):
            self._put(place, positions[place], token, True)
            positions[place] += 1
        self._decode()
        return [lib.llama_sampler_sample(sampler, self._context, row) for row, sampler in enumerate(samplers)]

    def _put(self, sequence: int, position: int, token: int, wanted: bool) -> None:
        batch = self._batch
        row = batch.n_tokens
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = wanted
        batch.n_tokens = row + 1

    def _decode(self) -> None:
        status = lib.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}.")


def _chain(sampling: Sampling, seed: int) -> "lib.llama_sampler_p":
    """Makes the sampler chain that the engine makes for the same parameters."""
    chain: lib.llama_sampler_p = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_top_k(sampling.top_k),
        lib.llama_sampler_init_top_p(sampling.top_p, 1),
        lib.llama_sampler_init_min_p(sampling.min_p, 1),
        lib.llama_sampler_init_temp(sampling.temperature),
        lib.llama_sampler_init_dist(seed),
    ):
        lib.llama_sampler_chain_add(chain, sampler)
    return chain
