"""One behaviour suite for the fake backend and llama.cpp, without an engine; and what llama.cpp alone must hold."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from redoma_model.engine.backend import AdapterFileError, Backend, BadLogits, DecodeFailed, GrammarError
from redoma_model.engine.batch import Chunk
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.compaction import Compaction
from redoma_model.engine.hardware import share_cores
from redoma_model.engine.lane import Lane
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.engine.prefix_cache import Partition, PrefixCache
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.sequence import Sequence as Running
from redoma_model.engine.text import TextAssembler
from redoma_model.errors import MemoryInsufficient
from redoma_model.forms.structured_output import JSON_OBJECT_GRAMMAR
from tests.fakes.lora_adapter import SMOLLM2, LoraSpec, write_lora
from tests.fakes.model_backend import ADAPTER_MAGIC, FakeBackend

if TYPE_CHECKING:
    from redoma_model.engine.llama import LlamaBackend, LlamaLoader

MODEL = Path(__file__).parents[3] / ".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf"
CELLS = 512
# Logits of the same tokens in a batch of the same shape differ by this much at most, as sums are taken in the order the
# cells lie in. What another text or adapter changes is several times that.
TOLERANCE = 0.6
BASE = Lane()
PROMPT = tuple(b"The quick brown fox jumps over a lazy dog, ok.")

AdapterWriter = Callable[[Path, int], Path]


def options(**changed: object) -> LlamaOptions:
    """Gives options for a small context."""
    values: dict[str, object] = {"context_tokens": CELLS, "cells": CELLS, "slots": 8, "threads": 2}
    return LlamaOptions(MODEL, **(values | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def make_loader() -> Callable[..., "LlamaLoader"]:
    # Before llama.cpp is brought in, which then reads its settings.
    share_cores(os.environ)
    from redoma_model.engine.llama import LlamaLoader

    return LlamaLoader


@pytest.fixture(scope="module")
def loader(make_loader: Callable[..., "LlamaLoader"]) -> "LlamaLoader":
    return make_loader()


@pytest.fixture(scope="module")
def llama_once(loader: "LlamaLoader") -> Iterator["LlamaBackend"]:
    backend = loader.load(options(), lambda _: True)
    yield backend
    backend.close()


@pytest.fixture
def llama(llama_once: "LlamaBackend") -> Iterator["LlamaBackend"]:
    yield llama_once
    for sequence in range(llama_once.info.sequences):
        llama_once.forget(sequence)


@pytest.fixture(params=["fake", "llama"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "fake":
        yield FakeBackend(slots=8, sequences=16, cells=CELLS)
    else:
        yield request.getfixturevalue("llama")


def write_adapter(backend: Backend, folder: Path, seed: int) -> Path:
    """Writes an adapter that the backend can load."""
    path = folder / f"adapter-{seed}"
    if isinstance(backend, FakeBackend):
        path.write_bytes(ADAPTER_MAGIC + str(seed).encode())
        return path
    return write_lora(path, LoraSpec("llama", SMOLLM2, seed=seed, strength=4.0))


def sequence(slot: int, tokens: Sequence[int] = PROMPT, computed: int = 0) -> Running:
    """Makes a sequence as the engine does."""
    text = TextAssembler((), False, False)
    made = Running(Request(tuple(tokens), Sampling()), text, limit=100, submitted_at=0.0)
    made.slot, made.computed = slot, computed
    return made


def compute(backend: Backend, running: Running, lane: Lane = BASE, drafts: tuple[int, ...] = ()) -> None:
    """Computes all that waits of a sequence in one step."""
    backend.decode([Chunk(running, running.pending, drafts)], lane)
    running.computed = len(running.tokens)


def logits(backend: Backend, row: int = 0) -> NDArray[np.float32]:
    """Gives a copy of a row of the last step's logits."""
    if isinstance(backend, FakeBackend):
        return np.array(backend._rows[row])
    return np.array(backend._logits[row])  # type: ignore[attr-defined]


def greedy(backend: Backend, row: int = 0) -> int:
    """Picks the most probable token of a row."""
    sampler = backend.create_sampler(Sampling(temperature=0), 1, ())
    token = backend.sample(sampler, row)
    backend.free_sampler(sampler)
    return token


# Cells.


def test_shared_cells_outlive_the_sequence_that_computed_them(backend: Backend) -> None:
    compute(backend, sequence(0))
    backend.share(0, 12, 0, 40)
    backend.forget(0)
    assert (backend.span(0), backend.span(12)) == (range(0), range(40))
    backend.forget(12, 10)
    assert backend.span(12) == range(10)
    backend.forget(12)
    assert backend.span(12) == range(0)


def test_sequence_rebuilt_from_segments_answers_like_a_cold_one(backend: Backend) -> None:
    split, end = 24, len(PROMPT) - 8
    cold = sequence(0)
    backend.decode([Chunk(cold, end)], BASE)
    cold.computed = end
    backend.share(0, 12, 0, split)
    backend.share(0, 13, split, end)
    compute(backend, cold)
    expected = logits(backend)
    backend.forget(0)
    backend.restore(14, backend.save(13))
    backend.forget(13)
    assert backend.span(14) == range(split, end)
    backend.share(12, 1, 0, split)
    backend.share(14, 1, split, end)
    compute(backend, sequence(1, computed=end))
    np.testing.assert_allclose(logits(backend), expected, atol=TOLERANCE)


def test_swapped_sequence_goes_on_in_another_slot(backend: Backend) -> None:
    running = sequence(0)
    compute(backend, running)
    running.tokens.append(greedy(backend))
    saved = backend.save(0)
    compute(backend, running)
    expected = logits(backend)
    backend.forget(0)
    backend.restore(5, saved)
    resumed = sequence(5, computed=len(PROMPT))
    resumed.tokens.append(running.tokens[-1])
    compute(backend, resumed)
    np.testing.assert_allclose(logits(backend), expected, atol=TOLERANCE)


def test_sequences_go_on_alike_after_their_cells_were_moved_together(backend: Backend) -> None:
    cache = PrefixCache(backend, range(12, 16))
    running = []
    for slot, tenant in ((0, "one"), (1, "one"), (2, "two")):
        begun = sequence(slot, (*PROMPT, 65 + slot))
        begun.lease = cache.acquire(Partition(tenant), 1, begun.tokens, slot)
        begun.computed = begun.lease.length
        compute(backend, begun)
        cache.extend(begun.lease, begun.tokens, slot)
        running.append(begun)
    shared = running[1].lease
    assert shared is not None and shared.own > 0

    def next_logits() -> list[NDArray[np.float32]]:
        for one in running:
            one.tokens.append(90)
        backend.decode([Chunk(one, 1) for one in running], BASE)
        rows = [logits(backend, row) for row in range(len(running))]
        for one in running:
            one.tokens.pop()
            backend.forget(one.slot, len(one.tokens))
        return rows

    expected = next_logits()
    assert Compaction(backend, cache, time.monotonic).run(running, 1 << 30)
    assert [backend.span(one.slot) for one in running] == [range(len(one.tokens)) for one in running]
    np.testing.assert_allclose(next_logits(), expected, atol=TOLERANCE)
    for one in running:
        assert one.lease is not None
        cache.release(one.lease)
        backend.forget(one.slot)
    cache.check()


def test_forgotten_cells_make_room(backend: Backend) -> None:
    tokens = PROMPT[:32] * 2
    fitting = CELLS // len(tokens)
    filled = [sequence(slot, tokens) for slot in range(fitting)]
    assert fitting == 8
    for running in filled:
        compute(backend, running)
    saved = backend.save(0)
    with pytest.raises(OutOfCells):
        compute(backend, sequence(0, [*filled[0].tokens, 5], computed=len(tokens)))
    with pytest.raises(OutOfCells):
        backend.restore(10, saved)
    assert backend.span(10) == range(0)
    backend.forget(3)
    backend.restore(10, saved)
    assert backend.span(10) == range(len(tokens))


# Steps.


def test_every_chunk_that_completes_gives_a_row_in_order(backend: Backend) -> None:
    alone = [sequence(slot, PROMPT[slot : slot + 16]) for slot in range(2)]
    expected = []
    for running in alone:
        compute(backend, running)
        expected.append(logits(backend))
        backend.forget(running.slot)
    first, cut, second = sequence(0, PROMPT[:16]), sequence(2), sequence(1, PROMPT[1:17])
    backend.decode([Chunk(first, 16), Chunk(cut, 10), Chunk(second, 16)], BASE)
    # Another shape of the batch: only what is most probable can be compared.
    assert [greedy(backend, row) for row in range(2)] == [int(one.argmax()) for one in expected]
    assert backend.span(2) == range(10)


def test_drafts_are_judged_like_tokens_computed_one_by_one(backend: Backend) -> None:
    running = sequence(0)
    compute(backend, running)
    picked = [greedy(backend)]
    for _ in range(4):
        running.tokens.append(picked[-1])
        compute(backend, running)
        picked.append(greedy(backend))
    backend.forget(0)
    drafted = sequence(1)
    backend.decode([Chunk(drafted, len(PROMPT) - 1)], BASE)
    drafted.computed = len(PROMPT) - 1
    backend.decode([Chunk(drafted, 1, tuple(picked[:4]))], BASE)
    assert [greedy(backend, row) for row in range(5)] == picked
    assert backend.span(1) == range(len(PROMPT) + 4)


def test_rejected_drafts_leave_no_trace(backend: Backend) -> None:
    clean = sequence(0)
    compute(backend, clean)
    clean.tokens.append(66)
    compute(backend, clean)
    expected = logits(backend)
    drafted = sequence(1)
    compute(backend, drafted, drafts=(70, 71, 72))
    backend.forget(1, len(PROMPT))
    drafted.tokens.append(66)
    compute(backend, drafted)
    np.testing.assert_allclose(logits(backend), expected, atol=TOLERANCE)


def test_pooled_sums_add_up_over_chunks(backend: Backend) -> None:
    pooled = Lane(pooled=True)
    whole, other = sequence(0), sequence(1, PROMPT[10:24])
    backend.decode([Chunk(other, 14), Chunk(whole, whole.pending)], pooled)
    total, others = backend.pooled(1), backend.pooled(0)
    assert total.shape == (backend.info.embedding_size,)
    parts = sequence(2)
    backend.decode([Chunk(parts, 30)], pooled)
    first = backend.pooled(0)
    parts.computed = 30
    compute(backend, parts, pooled)
    summed = first + backend.pooled(0)
    assert cosine(summed, total) > 0.999
    assert cosine(others, total) < 0.999


def test_lanes_take_turns_without_touching_each_other(backend: Backend) -> None:
    running = sequence(0)
    compute(backend, running)
    expected = logits(backend)
    for _ in range(2):
        compute(backend, sequence(1), Lane(pooled=True))
        again = sequence(2)
        compute(backend, again)
        np.testing.assert_allclose(logits(backend), expected, atol=TOLERANCE)
        backend.forget(1)
        backend.forget(2)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Gives the cosine of the angle between two vectors."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


# Adapters.


def test_each_adapter_gives_logits_of_its_own(backend: Backend, tmp_path: Path) -> None:
    found = []
    handles = [backend.load_adapter(write_adapter(backend, tmp_path, seed)) for seed in (1, 2)]
    lanes = [BASE, *(Lane(handle) for handle in handles), Lane(handles[0]), BASE]
    for slot, lane in enumerate(lanes):
        compute(backend, sequence(slot), lane)
        found.append(logits(backend))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 3 * TOLERANCE
    np.testing.assert_allclose(found[3], found[1], atol=TOLERANCE)
    np.testing.assert_allclose(found[4], found[0], atol=TOLERANCE)
    for handle in handles:
        backend.free_adapter(handle)


def test_adapter_freed_after_its_step_does_not_reach_the_next(backend: Backend, tmp_path: Path) -> None:
    compute(backend, sequence(0))
    expected = logits(backend)
    path = write_adapter(backend, tmp_path, 3)
    for slot in (1, 2, 3):
        handle = backend.load_adapter(path)
        compute(backend, sequence(slot), Lane(handle))
        backend.free_adapter(handle)
    compute(backend, sequence(4))
    np.testing.assert_allclose(logits(backend), expected, atol=TOLERANCE)


def test_file_that_is_no_adapter_is_refused(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "nonsense"
    path.write_bytes(b"<html></html>")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(AdapterFileError):
            backend.load_adapter(wrong)


# Sampling.


def test_grammar_forces_the_answer(backend: Backend) -> None:
    running = sequence(0)
    sampler = backend.create_sampler(Sampling(grammar='root ::= "kumquat"'), 7, ())
    answer = b""
    for _ in range(20):
        compute(backend, running)
        token = backend.sample(sampler, 0)
        if backend.is_end(token):
            break
        answer += backend.piece(token)
        running.tokens.append(token)
    backend.free_sampler(sampler)
    assert answer == b"kumquat"
    assert backend.is_end(token)


def test_grammar_waits_while_a_token_is_not_constrained(backend: Backend) -> None:
    running = sequence(0)
    sampler = backend.create_sampler(Sampling(temperature=0, grammar='root ::= "~"'), 7, ())
    compute(backend, running)
    free = backend.sample(sampler, 0, constrained=False)
    assert free == greedy(backend)
    forced = backend.sample(sampler, 0)
    backend.free_sampler(sampler)
    assert backend.piece(forced) == b"~"


def test_broken_grammar_is_refused(backend: Backend) -> None:
    for wrong in ("", "nonsense", 'root ::= "a'):
        with pytest.raises(GrammarError):
            backend.check_grammar(wrong)


# What llama.cpp alone must hold.

SCHEMAS: dict[str, dict[str, object]] = {
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
    },
    "enum that needs escapes": {"enum": ['say "no"', "back\\slash", "line\nbreak", "naïve"]},
    "optional members": {
        "properties": {name: {"type": "boolean"} for name in ("left", "right", "both")},
        "required": ["right"],
    },
    "list": {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 2, "maxItems": 4},
    "numbers within bounds": {
        "prefixItems": [
            {"type": "integer", "minimum": -40, "maximum": 1_234},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            {"type": "integer", "multipleOf": 100, "minimum": -(2**63), "maximum": 2**63},
        ],
        "minItems": 3,
    },
    "patterns": {
        "prefixItems": [
            {"type": "string", "pattern": r"^(?=.*[A-Z])[^\s\x00-\x1f]{4,9}$"},
            {"type": "string", "pattern": r'^["\\\n\x01-\x03]{3}$'},
            {"type": "string", "pattern": "^[à-ý]{2,6}$", "maxLength": 4},
        ],
        "minItems": 3,
    },
    "instant": {"type": "string", "format": "date-time"},
    "set and union": {
        "properties": {
            "colours": {
                "type": "array",
                "uniqueItems": True,
                "items": {"enum": ["red", "green", "blue"]},
                "minItems": 2,
            },
            "shape": {
                "oneOf": [
                    {"properties": {"kind": {"const": "disc"}, "size": {"maximum": 9}}, "required": ["kind"]},
                    {"properties": {"kind": {"const": "dot"}}, "required": ["kind"]},
                ]
            },
        },
        "required": ["colours", "shape"],
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"at": {"type": "string", "format": "date"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["at"],
            }
        },
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_hot_answer_under_a_schema_is_valid(llama: "LlamaBackend", name: str) -> None:
    from jsonschema import Draft202012Validator, FormatChecker

    grammar = llama.schema_grammar(SCHEMAS[name])
    llama.check_grammar(grammar)
    for seed in range(2):
        answer = constrained_answer(llama, Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, grammar=grammar), seed)
        if answer is not None:
            Draft202012Validator(SCHEMAS[name], format_checker=FormatChecker()).validate(json.loads(answer))
    assert answer is not None or name == "tree"


def test_json_object_grammar_can_be_followed(llama: "LlamaBackend") -> None:
    llama.check_grammar(JSON_OBJECT_GRAMMAR)
    answers = (constrained_answer(llama, Sampling(grammar=JSON_OBJECT_GRAMMAR), seed) for seed in range(2))
    assert all(isinstance(json.loads(answer), dict) for answer in answers if answer is not None)


def constrained_answer(llama: "LlamaBackend", sampling: Sampling, seed: int) -> str | None:
    """Gives a whole answer; None when it does not end by itself."""
    llama.forget(0)
    running = sequence(0, llama.tokenize("Answer in JSON: ", False))
    sampler = llama.create_sampler(sampling, seed, ())
    answer = b""
    try:
        for _ in range(80):
            compute(llama, running)
            token = llama.sample(sampler, 0)
            if llama.is_end(token):
                return answer.decode()
            answer += llama.piece(token)
            running.tokens.append(token)
    finally:
        llama.free_sampler(sampler)
    return None


def test_answer_that_bias_and_grammar_leave_nothing_of_ends_alone(llama: "LlamaBackend") -> None:
    (letter,) = llama.tokenize("a", False)
    compute(llama, sequence(0))
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature, grammar='root ::= "a"', logit_bias={letter: -100})
        sampler = llama.create_sampler(sampling, 1, ())
        with pytest.raises(BadLogits):
            llama.sample(sampler, 0)
        llama.free_sampler(sampler)
    assert greedy(llama) >= 0


def test_step_larger_than_the_batch_fails_before_llama_cpp_sees_it(llama: "LlamaBackend") -> None:
    with pytest.raises(DecodeFailed):
        compute(llama, sequence(0, PROMPT * 2))
    assert llama.span(0) == range(0)
    compute(llama, sequence(0))


def test_adapter_answers_alike_in_a_fresh_context(llama: "LlamaBackend", loader: "LlamaLoader", tmp_path: Path) -> None:
    path = write_adapter(llama, tmp_path, 5)
    compute(llama, sequence(0))
    compute(llama, sequence(1), Lane(handle := llama.load_adapter(path)))
    used = logits(llama)
    llama.free_adapter(handle)
    fresh = loader.load(options(), lambda _: True)
    compute(fresh, sequence(0), Lane(fresh.load_adapter(path)))
    np.testing.assert_allclose(used, logits(fresh), atol=TOLERANCE)
    fresh.close()


def test_scale_of_an_adapter_counts(llama: "LlamaBackend", tmp_path: Path) -> None:
    handle = llama.load_adapter(write_adapter(llama, tmp_path, 6))
    found = []
    for slot, scale in enumerate((0.0, 0.5, 1.0)):
        compute(llama, sequence(slot), Lane(handle, scale))
        found.append(logits(llama))
    compute(llama, sequence(3))
    np.testing.assert_allclose(found[0], logits(llama), atol=TOLERANCE)
    assert np.abs(found[1] - found[0]).max() > 2 * TOLERANCE
    assert np.abs(found[1] - found[2]).max() > 2 * TOLERANCE
    llama.free_adapter(handle)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (LoraSpec("qwen2", SMOLLM2), "architecture"),
        (LoraSpec("llama", {"blk.0.attn_q.weight": (512, 576)}), "shape"),
        (LoraSpec("llama", {"blk.99.attn_q.weight": (576, 576)}), "does not exist"),
        (LoraSpec("llama", {}), "holds no weights"),
    ],
)
def test_adapter_of_another_model_is_refused(
    llama: "LlamaBackend", tmp_path: Path, spec: LoraSpec, problem: str
) -> None:
    path = write_lora(tmp_path / "adapter.gguf", spec)
    with pytest.raises(AdapterFileError, match=problem):
        llama.load_adapter(path)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_adapter_cut_short_is_refused(llama: "LlamaBackend", tmp_path: Path, part: float) -> None:
    path = write_adapter(llama, tmp_path, 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(AdapterFileError):
        llama.load_adapter(path)


def test_model_itself_is_no_adapter(llama: "LlamaBackend") -> None:
    with pytest.raises(AdapterFileError, match="not a LoRA adapter"):
        llama.load_adapter(MODEL)


# Weights and memory.


def test_contexts_of_one_file_share_its_weights(loader: "LlamaLoader", llama: "LlamaBackend") -> None:
    before = loader.estimate(options())
    other = loader.load(options(context_tokens=256, cells=256, slots=2), lambda _: True)
    assert other._weights is llama._weights
    assert before.weights_bytes == 0
    compute(other, sequence(0))
    other.close()
    compute(llama, sequence(0))


def test_weights_are_freed_with_their_last_context(make_loader: Callable[..., "LlamaLoader"]) -> None:
    loader = make_loader()
    for _ in range(2):
        assert loader.estimate(options()).weights_bytes > 90 << 20
        loader.load(options(), lambda _: True).close()


def test_model_that_does_not_fit_is_refused_with_numbers(make_loader: Callable[..., "LlamaLoader"]) -> None:
    loader = make_loader(free_bytes=lambda: 64 << 20)
    with pytest.raises(MemoryInsufficient) as caught:
        loader.load(options(), lambda _: True)
    assert int(caught.value.metadata["needed_bytes"]) > 96 << 20
    assert caught.value.metadata["available_bytes"] == str(64 << 20)
