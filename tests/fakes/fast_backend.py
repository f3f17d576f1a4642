"""A model backend that costs next to nothing and takes a set time for a step, to measure what is around it."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import AdapterFileError, GrammarError, ModelInfo, TokenLogprob
from redoma_model.engine.batch import Chunk
from redoma_model.engine.lane import Lane
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.template import FALLBACK_TEMPLATE
from redoma_model.settings import ModelSettings

SLOTS = 256
# Begins each token's text and stands nowhere else, so that tokens can be counted in what goes over the wire.
MARK = "~"
WORDS = tuple(f"{MARK}{word}".encode() for word in ("glass", "dome", "river", "town", "quiet", "stands", "over", "and"))
# A step that comes late is made up for, a longer pause is not.
MOST_BEHIND_S = 0.1


class FastBackend:
    """Implements Backend: a prompt's words are its tokens, and every answer is the same words over and over."""

    def __init__(self, settings: ModelSettings, step_s: float) -> None:
        self._step_s = step_s
        self._lengths: dict[int, int] = {}
        self._due = 0.0
        self._next_token = 0
        self._info = ModelInfo(
            display_name="Fast",
            parameters=1,
            size_bytes=1,
            quantization="F32",
            context_tokens=settings.context_tokens,
            slots=SLOTS,
            sequences=2 * SLOTS,
            cells=SLOTS * settings.context_tokens,
            embedding_size=1,
            vocabulary_size=len(WORDS),
            longest_token_bytes=max(map(len, WORDS)),
            chat_template=FALLBACK_TEMPLATE,
            bos_token="",
            eos_token="",
            prompt_prefix=(),
            marker_texts=(),
            recommended={},
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        return [len(word) % len(WORDS) for word in text.split()]

    def piece(self, token: int) -> bytes:
        return WORDS[token]

    def is_end(self, token: int) -> bool:
        return False

    def decode(self, chunks: Sequence[Chunk], lane: Lane) -> None:
        for chunk in chunks:
            self._lengths[chunk.sequence.slot] = chunk.sequence.computed + chunk.count + len(chunk.drafts)
        now = time.monotonic()
        self._due = max(self._due, now - MOST_BEHIND_S) + self._step_s
        time.sleep(max(0.0, self._due - now))

    def sample(self, sampler: object, row: int, constrained: bool = True) -> int:
        self._next_token = (self._next_token + 1) % len(WORDS)
        return self._next_token

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        return TokenLogprob(token, WORDS[token], 0.0)

    def pooled(self, place: int) -> NDArray[np.float32]:
        return np.ones(1, np.float32)

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        return self

    def free_sampler(self, sampler: object) -> None:
        pass

    def schema_grammar(self, schema: object) -> str:
        raise GrammarError("This model follows no grammar.")

    def check_grammar(self, grammar: str) -> None:
        raise GrammarError("This model follows no grammar.")

    def load_adapter(self, path: Path) -> object:
        raise AdapterFileError("This model takes no adapters.")

    def free_adapter(self, handle: object) -> None:
        pass

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        self._lengths[target] = end

    def forget(self, sequence: int, begin: int = 0, end: int | None = None) -> None:
        if begin:
            self._lengths[sequence] = begin
        else:
            self._lengths.pop(sequence, None)

    def save(self, sequence: int) -> bytes:
        return self._lengths[sequence].to_bytes(8)

    def restore(self, sequence: int, saved: bytes) -> None:
        self._lengths[sequence] = int.from_bytes(saved)

    def span(self, sequence: int) -> range:
        return range(self._lengths.get(sequence, 0))

    def close(self) -> None:
        pass
