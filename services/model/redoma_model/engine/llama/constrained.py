"""Picking tokens that a grammar allows, within a bound of processor time."""

import ctypes
import math
import time
from collections.abc import Sequence
from ctypes import cast

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import BadLogits

# Processor time that following a grammar may take for one token; all other sequences wait for it.
MOST_GRAMMAR_S = 0.5


class Constrained:
    """The sampler chain of a sequence whose answer follows a grammar, and that grammar's sampler."""

    __slots__ = ("chain", "grammar")

    def __init__(self, chain: "lib.llama_sampler_p", grammar: "lib.llama_sampler_p") -> None:
        self.chain = chain
        self.grammar = grammar


class Candidates:
    """All tokens with their logits, as llama.cpp's samplers take them, filled anew for each constrained token."""

    __slots__ = ("_all", "_ids", "_one")

    def __init__(self, vocabulary_size: int) -> None:
        layout = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(vocabulary_size, dtype=np.int32)
        self._all = np.zeros(vocabulary_size, layout)
        self._one = np.zeros(1, layout)

    def sample(self, sampler: Constrained, logits: NDArray[np.float32]) -> int:
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

    def follow(self, sampler: Constrained, tokens: Sequence[int]) -> bool:
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

    def _pick(self, sampler: Constrained) -> int:
        array = _token_array(self._all)
        lib.llama_sampler_apply(sampler.chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise BadLogits("nothing was picked")
        return int(array.data[array.selected].id)

    def _allowed(self, sampler: Constrained, token: int) -> bool:
        self._one[0] = (token, 0, 0)
        lib.llama_sampler_apply(sampler.grammar, ctypes.byref(_token_array(self._one)))
        return bool(self._one["logit"][0] == 0)


def _token_array(candidates: "NDArray[np.void]") -> lib.llama_token_data_array:
    data = cast(candidates.ctypes.data, lib.llama_token_data_p)
    return lib.llama_token_data_array(data, len(candidates), -1, False)
