"""A model backend without a model: every byte is a token, and the prompt says what the answer is.

A user message `say:hello` is answered with `hello`, one byte a token, then the end token; any other with an alphabet
that never ends, and that each adapter shifts. It keeps the KV cache's books, cell by cell: which token after which
others, under which adapter, for which tenant, held by which sequences. A step over cells that don't hold exactly the
sequence's tokens under its adapter, or that were computed for another tenant, fails.
"""

import json
import math
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import (
    AdapterFileError,
    BackendLoader,
    BadLogits,
    DecodeFailed,
    GrammarError,
    ModelInfo,
    Progress,
    TokenLogprob,
)
from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.lane import Lane
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Sequence as Running
from redoma_model.engine.template import FALLBACK_TEMPLATE
from tests.fakes.cell_store import FakeCellStore

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<|user|>")
IM_START, IM_END, END_OF_TEXT, THINK, END_THINK, USER = range(256, 256 + len(SPECIAL))
VOCABULARY_SIZE = 256 + len(SPECIAL)
ENDS = frozenset({IM_END, END_OF_TEXT})
# Marked as user-defined: recognised even where special tokens are not parsed, as llama.cpp does.
USER_DEFINED = ("<|user|>",)
ALPHABET = b"abcdefghijklmnopqrstuvwxyz "
PATIENCE_S = 60.0
EMBEDDING_SIZE = 8
ADAPTER_MAGIC = b"FAKE-ADAPTER "
# The one kind of grammar there is: a text, spelt as JSON spells it.
_GRAMMAR = re.compile(r'root ::= ("(?:[^"\\]|\\.)*")\s*')


@dataclass(eq=False, slots=True)
class FakeAdapter:
    """Shifts the alphabet by `shift` letters."""

    shift: int


class FakeSampler:
    """Picks from logits, and counts what it saw."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self.random = random.Random(seed)
        self.seen: dict[int, int] = {}
        # What the grammar leaves to say; None without one.
        self.forced = grammar_text(sampling.grammar) if sampling.grammar else None
        if self.forced is not None:
            begun = bytes(sampling.begun)
            if not self.forced.startswith(begun):
                raise GrammarError("The grammar's text does not begin so.")
            self.forced = self.forced.removeprefix(begun)

    def pick(self, logits: NDArray[np.float32], constrained: bool) -> int:
        """Picks a token."""
        if self.forced is not None and constrained:
            token, self.forced = (self.forced[0], self.forced[1:]) if self.forced else (IM_END, b"")
            self.seen[token] = self.seen.get(token, 0) + 1
            return token
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
        sequences: int = 64,
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
            sequences=sequences,
            cells=cells,
            embedding_size=EMBEDDING_SIZE,
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
        self.cells = FakeCellStore(cells, sequences)
        self.share = self.cells.share
        self.forget = self.cells.forget
        self.save = self.cells.save
        self.restore = self.cells.restore
        self.span = self.cells.span
        self.adapters = 0
        self.samplers = 0
        # Each step's slots, with how many tokens of each, and its lane.
        self.steps: list[list[tuple[int, int]]] = []
        self.lanes: list[Lane] = []
        self.prompts: list[tuple[int, ...]] = []
        self.faults: list[Exception] = []
        # Gets logits that are no number.
        self.bad_prompt: tuple[int, ...] | None = None
        # Makes every step fail that it is in.
        self.poison: tuple[int, ...] | None = None
        self.closed = False
        self._rows: list[NDArray[np.float32]] = []
        self._pooled: list[NDArray[np.float32]] = []
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
        sampler = FakeSampler(sampling, seed)
        self.samplers += 1
        self.prompts.append(tuple(prompt))
        return sampler

    def free_sampler(self, sampler: object) -> None:
        assert isinstance(sampler, FakeSampler)
        self.samplers -= 1

    def schema_grammar(self, schema: object) -> str:
        if not isinstance(schema, dict):
            raise GrammarError("A schema is an object.")
        return f"root ::= {json.dumps(json.dumps(schema.get('const', {})))}"

    def check_grammar(self, grammar: str) -> None:
        grammar_text(grammar)

    def load_adapter(self, path: Path) -> object:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AdapterFileError(f"{path} can't be read: {error.strerror}.") from error
        magic, _, shift = content.partition(ADAPTER_MAGIC)
        if magic or not shift.strip().isdigit():
            raise AdapterFileError(f"{path} is not an adapter.")
        self.adapters += 1
        return FakeAdapter(int(shift))

    def free_adapter(self, handle: object) -> None:
        assert isinstance(handle, FakeAdapter)
        self.adapters -= 1

    def decode(self, chunks: Sequence[Chunk], lane: Lane) -> None:
        assert chunks, "an empty step"
        self._waiting.set()
        assert self._go.wait(PATIENCE_S), "nobody resumed"
        time.sleep(self.step_s)
        if self.faults:
            raise self.faults.pop(0)
        if self.cells.used + sum(chunk.count + len(chunk.drafts) for chunk in chunks) > self._info.cells:
            raise OutOfCells
        self._rows, self._pooled = [], []
        for chunk in chunks:
            if chunk.sequence.request.prompt == self.poison:
                raise DecodeFailed("poison")
            self._compute(chunk, lane)
        self.steps.append([(chunk.sequence.slot, chunk.count) for chunk in chunks])
        self.lanes.append(lane)

    def _compute(self, chunk: Chunk, lane: Lane) -> None:
        sequence, done = chunk.sequence, chunk.sequence.computed
        assert 0 <= sequence.slot < self._info.sequences, f"{sequence.slot} is no slot"
        assert chunk.completes or not chunk.drafts, "drafts before the sequence's last token"
        under = (lane.adapter, lane.scale if lane.adapter is not None else 1.0)
        self._check_cells(sequence, under)
        tokens = [*sequence.tokens[: done + chunk.count], *chunk.drafts]
        self.cells.compute(sequence.slot, tokens, done, len(tokens), (sequence.request.tenant, under))
        if lane.pooled:
            self._pooled.append(sum_of_states(tokens[done:], done, lane))
        else:
            answered = len(sequence.tokens) - len(sequence.request.prompt)
            self._rows += [self._logits(sequence.request.prompt, answered + row, lane) for row in range(chunk.rows)]

    def _check_cells(self, sequence: Running, under: tuple[object | None, float]) -> None:
        """Checks that a sequence holds the cells of its tokens, computed for its tenant or for all, under `under`."""
        owners = ((sequence.request.tenant, under), ("", under))
        cells = self.cells.content(sequence.slot)
        contents = self.cells.contents(sequence.tokens[: sequence.computed])
        assert [cell.content for cell in cells] == contents, f"slot {sequence.slot} holds other tokens"
        assert all(cell.owner in owners for cell in cells), f"slot {sequence.slot} holds another's cells"

    def _logits(self, prompt: tuple[int, ...], position: int, lane: Lane) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.linspace(0, 1, VOCABULARY_SIZE, dtype=np.float32)
        answer = answer_to(prompt)
        if answer is None:
            logits[ALPHABET[(position + _shift(lane)) % len(ALPHABET)]] += self.certainty
        else:
            logits[answer[position] if position < len(answer) else IM_END] += self.certainty
        if prompt == self.bad_prompt:
            logits[7] = math.nan
        return logits

    def pooled(self, place: int) -> NDArray[np.float32]:
        return self._pooled[place]

    def sample(self, sampler: object, row: int, constrained: bool = True) -> int:
        assert isinstance(sampler, FakeSampler)
        if np.isnan(self._rows[row]).any():
            raise BadLogits("not a number")
        return sampler.pick(self._rows[row], constrained)

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
        """KV cells in use; one that several sequences hold counts once."""
        return self.cells.used

    def close(self) -> None:
        self.closed = True


def grammar_text(grammar: str) -> bytes:
    """Gives the one text that a grammar allows.

    Raises:
        GrammarError: It is not of the form that is understood here.
    """
    found = _GRAMMAR.fullmatch(grammar)
    if found is None:
        raise GrammarError("The grammar is not one literal.")
    text: str = json.loads(found[1])
    return text.encode()


def sum_of_states(tokens: Sequence[int], begin: int, lane: Lane) -> NDArray[np.float32]:
    """Gives the sum of the hidden states of tokens at the positions from `begin` on, whatever else is computed."""
    total: NDArray[np.float32] = np.zeros(EMBEDDING_SIZE, np.float32)
    for place, token in enumerate(tokens):
        angles = (token + 1) * np.arange(1, EMBEDDING_SIZE + 1, dtype=np.float32) + (begin + place) / 100
        total += np.sin(angles + _shift(lane)).astype(np.float32)
    return total


def _shift(lane: Lane) -> int:
    return lane.adapter.shift if isinstance(lane.adapter, FakeAdapter) else 0


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
