"""The samplers of sequences: a chain of llama.cpp's as the request asks for, with a grammar's sampler beside it."""

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_int32

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import BadLogits, GrammarError
from redoma_model.engine.llama.constrained import Candidates, Constrained
from redoma_model.engine.llama.log import LlamaLog
from redoma_model.engine.llama.vocabulary import LlamaVocabulary
from redoma_model.engine.sampling import Sampling
from redoma_model.forms.grammar_cost import check_grammar_cost

# Sampling takes some 50 us and is called for each sequence right after a step: keep the interpreter lock, rather than
# stand in line for it again behind the event loop each time.
_sample = ctypes.PyDLL(lib._lib._name).llama_sampler_sample
_sample.argtypes = [lib.llama_sampler_p_ctypes, lib.llama_context_p_ctypes, c_int32]
_sample.restype = c_int32
# llama.cpp takes this seed for "random".
_RANDOM_SEED = 0xFFFF_FFFF


class _Greedy:
    """Stands for the sampler of a sequence that takes the most probable token as it is."""


_GREEDY = _Greedy()


class LlamaSamplers:
    """Makes the samplers of a context's sequences, and picks with them."""

    __slots__ = ("_candidates", "_context", "_context_tokens", "_log", "_vocabulary")

    def __init__(
        self, vocabulary: LlamaVocabulary, context: lib.llama_context_p, context_tokens: int, log: LlamaLog
    ) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._context_tokens = context_tokens
        self._log = log
        self._candidates = Candidates(vocabulary.size)

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

    def create(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        """Makes the sampler of one sequence; with a grammar, one that `check_grammar` let pass."""
        if sampling.greedy:
            return _GREEDY
        chain = self._chain(sampling, seed, prompt)
        if not sampling.grammar:
            return chain
        sampler = Constrained(chain, self._grammar_sampler(sampling.grammar))
        if not self._candidates.follow(sampler, sampling.begun):
            self.free(sampler)
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
        window = self._context_tokens
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

    def free(self, sampler: object) -> None:
        """Frees a sampler."""
        if isinstance(sampler, Constrained):
            lib.llama_sampler_free(sampler.grammar)
            lib.llama_sampler_free(sampler.chain)
        elif sampler is not _GREEDY:
            lib.llama_sampler_free(sampler)

    def pick(self, sampler: object, logits: NDArray[np.float32], place: int, constrained: bool) -> int:
        """Picks a token and lets the sampler see it.

        Args:
            sampler: From `create`.
            logits: A row of the last step's.
            place: Which place of the last step's batch gave them.
            constrained: Whether the sampler's grammar, where it has one, applies to this token.

        Raises:
            BadLogits: The row holds a value that is no number, or the grammar lets none be picked.
        """
        best = int(logits.argmax())
        # The maximum of an array that holds a NaN is the NaN.
        if not math.isfinite(logits[best]):
            raise BadLogits(f"the largest logit is {logits[best]}")
        if sampler is _GREEDY:
            return best
        if isinstance(sampler, Constrained):
            if constrained:
                return self._candidates.sample(sampler, logits)
            sampler = sampler.chain
        return int(_sample(sampler, self._context, place))
