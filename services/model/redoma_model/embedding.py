"""Embeddings of many texts at once: all of them, or one refusal."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redoma_kit.errors import InvalidField
from redoma_model.engine.backend import ModelInfo
from redoma_model.engine.engine import Engine
from redoma_model.engine.prompt import ALWAYS_COUNTED_BYTES, PromptBuilder
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Done
from redoma_model.errors import GenerationFailed, InputTooLong

MAX_INPUTS = 2_048
MAX_TOKENS = 262_144

# A text, or the tokens of one.
EmbedInput = str | tuple[int, ...]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a call gives: vectors of length 1, in the order of the inputs, and what they cost."""

    vectors: list[Vector]
    input_tokens: int


def check_inputs(inputs: Sequence[EmbedInput]) -> None:
    """Checks how many there are, and that none is empty.

    Raises:
        InvalidField: They are too few, too many, or one is empty.
    """
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidField("inputs", f"{len(inputs)} inputs are not 1 to {MAX_INPUTS}.")
    for index, given in enumerate(inputs):
        if not given:
            raise InvalidField(f"inputs[{index}]", "is empty.")


def tokens_of(prompts: PromptBuilder, info: ModelInfo, inputs: Sequence[EmbedInput]) -> list[tuple[int, ...]]:
    """Gives the tokens of each input. May take some 100 ms, so keep it off the event loop.

    Raises:
        InvalidField: A token is not in the vocabulary, or there are too many in all.
        InputTooLong: One does not fit the context window.
    """
    found: list[tuple[int, ...]] = []
    total = 0
    for index, given in enumerate(inputs):
        tokens = _tokens(prompts, info, f"inputs[{index}]", given)
        total += len(tokens)
        if total > MAX_TOKENS:
            raise InvalidField("inputs", f"have more than {MAX_TOKENS} tokens together.")
        found.append(tokens)
    return found


def _tokens(prompts: PromptBuilder, info: ModelInfo, field: str, given: EmbedInput) -> tuple[int, ...]:
    if isinstance(given, str):
        size = len(given.encode())
        at_least = size // prompts.most_bytes_per_token
        if at_least > info.context_tokens and size > ALWAYS_COUNTED_BYTES:
            raise InputTooLong(field, at_least, info.context_tokens, counted=False)
        tokens = (*info.prompt_prefix, *prompts.content_tokens(given))
        if not tokens:
            raise InvalidField(field, "has no tokens.")
    else:
        tokens = given
        for place, token in enumerate(tokens):
            if not 0 <= token < info.vocabulary_size:
                raise InvalidField(
                    f"{field}.tokens.ids[{place}]", f"no such token; the vocabulary has {info.vocabulary_size}."
                )
    if len(tokens) > info.context_tokens:
        raise InputTooLong(field, len(tokens), info.context_tokens)
    return tokens


async def embed(engine: Engine, requests: Sequence[Request], at_once: int, deadline: float | None) -> Embedded:
    """Computes the embedding of each request's prompt, so many at once; when one fails the others are cancelled.

    Raises:
        DomainError: One of them was refused or failed.
    """
    vectors: list[Vector | None] = [None] * len(requests)
    todo = iter(enumerate(requests))

    async def work(todo: Iterator[tuple[int, Request]]) -> None:
        for index, request in todo:
            vectors[index] = await _one(engine, request, deadline)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(requests))):
                group.create_task(work(todo))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    computed = [vector for vector in vectors if vector is not None]
    if len(computed) != len(requests):
        raise GenerationFailed()
    return Embedded(computed, sum(len(request.prompt) for request in requests))


async def _one(engine: Engine, request: Request, deadline: float | None) -> Vector | None:
    stream = engine.submit(request, deadline)
    vector: Vector | None = None
    try:
        async for event in stream:
            if isinstance(event, Done):
                vector = event.embedding
    finally:
        engine.cancel(stream)
    return vector
