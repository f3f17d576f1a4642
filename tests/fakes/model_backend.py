"""A model backend without a model: every byte is a token, and the prompt says what the answer is.

A user message `say:hello` is answered with `hello`, one byte a token, then the end token; any other with an alphabet
that never ends. It keeps the KV cache's books and refuses a step that doesn't fit them, so that an engine that loses
count fails.
"""

import math
import random
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import (
    BackendLoader,
    BadLogits,
    DecodeFailed,
    ModelInfo,
    OutOfCells,
    Progress,
    TokenLogprob,
)
from redoma_model.engine.batch import Chunk
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.template import FALLBACK_TEMPLATE

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<|user|>")
IM_START, IM_END, END_OF_TEXT, THINK, END_THINK, USER = range(256, 256 + len(SPECIAL))
VOCABULARY_SIZE = 256 + len(SPECIAL)
ENDS = frozenset({IM_END, END_OF_TEXT})
# Marked as user-defined: recognised even where special tokens are not parsed, as llama.cpp does.
USER_DEFINED = ("<|user|>",)
ALPHABET = b"abcdefghijklmnopqrstuvwxyz "
PATIENCE_S = 60.0


class FakeSampler:
    """Picks from logits, and counts what it saw."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self.random = random.Random(seed)
        self.seen: dict[int, int] = {}

    def pick(self, logits: NDArray[np.float32]) -> int:
        """Picks a token."""
        values = logits.astype(np.float64)
        for token, bias in self.sampling.logit_bias.items():
            values[token] = -math.inf if bias <= -100 else values[token] + bias
        for token, count in self.seen.items():
            values[token] -= self.sampling.presence_penalty + count * self.sampling.frequency_penalty
        if self.sampling.temperature == 0:
            token = int(values.argmax())
        else:
            weights = np.exp((values - values.max()) / self.sampling.temperature)
            token = self.random.choices(range(len(values)), weights.tolist())[0]
        self.seen[token] = self.seen.get(token, 0) + 1
        return token


class FakeBackend:
    """Implements Backend. `pause` and `resume` hold its steps, so that a test can act between them."""

    def __init__(
        self,
        *,
        context_tokens: int = 512,
        slots: int = 4,
        cells: int = 2_048,
        chat_template: str = FALLBACK_TEMPLATE,
        certainty: float = 30.0,
        step_s: float = 0.0,
    ) -> None:
        self._info = ModelInfo(
            display_name="Fake",
            parameters=1,
            size_bytes=1,
            quantization="F32",
            context_tokens=context_tokens,
            slots=slots,
            cells=cells,
            vocabulary_size=VOCABULARY_SIZE,
            longest_token_bytes=max(map(len, SPECIAL)),
            chat_template=chat_template,
            bos_token="<|endoftext|>",
            eos_token="<|im_end|>",
            prompt_prefix=(),
            marker_texts=SPECIAL,
            recommended={},
        )
        # How much likelier the scripted token is than any other.
        self.certainty = certainty
        # How long a step takes, as a model's does.
        self.step_s = step_s
        self.cells: dict[int, int] = {}
        self.samplers = 0
        self.steps: list[list[tuple[int, int]]] = []
        self.prompts: list[tuple[int, ...]] = []
        self.faults: list[Exception] = []
        self.bad_prompt: tuple[int, ...] | None = None
        self.closed = False
        self._rows: list[NDArray[np.float32]] = []
        self._go = threading.Event()
        self._go.set()
        self._waiting = threading.Event()

    @property
    def info(self) -> ModelInfo:
        return self._info

    def pause(self) -> None:
        """Holds the next step before it begins."""
        self._waiting.clear()
        self._go.clear()

    def wait_paused(self) -> None:
        """Waits until a step is held."""
        assert self._waiting.wait(PATIENCE_S), "no step was begun"

    def resume(self) -> None:
        """Lets the steps go on."""
        self._go.set()

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        tokens: list[int] = []
        while text:
            for index, special in enumerate(SPECIAL):
                if text.startswith(special) and (parse_special or special in USER_DEFINED):
                    tokens.append(256 + index)
                    text = text[len(special) :]
                    break
            else:
                tokens += text[0].encode()
                text = text[1:]
        return tokens

    def piece(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return SPECIAL[token - 256].encode() if token in (THINK, END_THINK) else b""

    def is_end(self, token: int) -> bool:
        return token in ENDS

    def create_sampler(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> object:
        self.samplers += 1
        self.prompts.append(tuple(prompt))
        return FakeSampler(sampling, seed)

    def free_sampler(self, sampler: object) -> None:
        assert isinstance(sampler, FakeSampler)
        self.samplers -= 1

    def decode(self, chunks: Sequence[Chunk]) -> None:
        assert chunks, "an empty step"
        self._waiting.set()
        assert self._go.wait(PATIENCE_S), "nobody resumed"
        time.sleep(self.step_s)
        if self.faults:
            raise self.faults.pop(0)
        if sum(self.cells.values()) + sum(chunk.count for chunk in chunks) > self._info.cells:
            raise OutOfCells
        self._rows = []
        for chunk in chunks:
            sequence = chunk.sequence
            held = self.cells.get(sequence.slot, 0)
            if held != sequence.computed or not 0 <= sequence.slot < self._info.slots:
                raise DecodeFailed(f"slot {sequence.slot} holds {held} cells, not {sequence.computed}")
            self.cells[sequence.slot] = held + chunk.count
            if chunk.completes:
                self._rows.append(self._logits(sequence.request.prompt, sequence.tokens))
        self.steps.append([(chunk.sequence.slot, chunk.count) for chunk in chunks])

    def _logits(self, prompt: tuple[int, ...], tokens: list[int]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.linspace(0, 1, VOCABULARY_SIZE, dtype=np.float32)
        position = len(tokens) - len(prompt)
        answer = answer_to(prompt)
        if answer is None:
            logits[ALPHABET[position % len(ALPHABET)]] += self.certainty
        else:
            logits[answer[position] if position < len(answer) else IM_END] += self.certainty
        if prompt == self.bad_prompt:
            logits[7] = math.nan
        return logits

    def sample(self, sampler: object, row: int) -> int:
        assert isinstance(sampler, FakeSampler)
        if np.isnan(self._rows[row]).any():
            raise BadLogits("not a number")
        return sampler.pick(self._rows[row])

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        logits = self._rows[row].astype(np.float64)
        values = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        best = np.argsort(-values)[:top]
        return TokenLogprob(
            token,
            self.piece(token),
            float(values[token]),
            tuple(TokenLogprob(int(index), self.piece(int(index)), float(values[index])) for index in best),
        )

    @property
    def held_cells(self) -> int:
        return sum(self.cells.values())

    def forget(self, slot: int) -> None:
        self.cells.pop(slot, None)

    def close(self) -> None:
        self.closed = True


def answer_to(prompt: tuple[int, ...]) -> list[int] | None:
    """Gives the tokens that the prompt's last `say:` asks for, or None."""
    plain = bytes(token if token < 256 else 0 for token in prompt)
    _, found, rest = plain.rpartition(b"say:")
    if not found:
        return None
    answer = rest.partition(b"\x00")[0]
    tokens: list[int] = []
    text = answer.decode(errors="surrogateescape")
    while text:
        for marker, token in (("<think>", THINK), ("</think>", END_THINK)):
            if text.startswith(marker):
                tokens.append(token)
                text = text[len(marker) :]
                break
        else:
            tokens += text[0].encode(errors="surrogateescape")
            text = text[1:]
    return tokens


def loader(backend: FakeBackend, gate: threading.Event | None = None) -> BackendLoader:
    """Gives a loader of `backend`, which waits for `gate`."""

    def load(progress: Progress) -> FakeBackend:
        progress(0.5)
        if gate is not None:
            assert gate.wait(PATIENCE_S)
        progress(1.0)
        return backend

    return load
