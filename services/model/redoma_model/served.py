"""A model as callers see it: an id, its prompts and defaults, in front of an engine."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from redoma_model.engine.backend import ModelInfo
from redoma_model.engine.engine import Engine
from redoma_model.engine.prompt import PromptBuilder
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Stream
from redoma_model.engine.template import ChatTemplate, Message
from redoma_model.errors import ModelFileError, ModelLoading, ModelNotFound
from redoma_model.settings import SamplingSettings, default_sampling

# Room for the answer that shortening a prompt leaves when the request does not say how long the answer may be.
ORDINARY_ANSWER_TOKENS = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Card:
    """What a loaded model is, for callers.

    Attributes:
        loaded_at_s: Unix seconds.
        reasons: Whether it thinks before it answers.
    """

    id: str
    info: ModelInfo
    default_sampling: Sampling
    loaded_at_s: int
    reasons: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """An accepted request."""

    stream: Stream
    input_tokens: int
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    card: Card
    prompts: PromptBuilder


class ServedModel:
    """One model that is served. Until `load` returns, every call raises ModelLoading.

    Prompts are built on `workers`, as rendering and tokenizing may take milliseconds.
    """

    def __init__(
        self,
        model_id: str,
        engine: Engine,
        sampling: SamplingSettings,
        workers: Executor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.id = model_id
        self._engine = engine
        self._sampling = sampling
        self._workers = workers
        self._now = now
        self._loaded: _Loaded | None = None
        self._building = 0

    async def load(self) -> None:
        """Waits for the engine and prepares the model's prompts and defaults.

        Raises:
            ModelFileError: The model can't be loaded, or its metadata holds nonsense.
        """
        backend = await self._engine.wait_loaded()
        info = backend.info
        template = ChatTemplate(info.chat_template, info.bos_token, info.eos_token)
        sampling = default_sampling(f"{info.display_name} {self.id}", info.recommended, self._sampling)
        try:
            sampling.check(info.vocabulary_size)
        except Exception as error:
            raise ModelFileError(f"The sampling the model's metadata recommends is out of range: {error}") from error
        card = Card(self.id, info, sampling, int(self._now()), template.reasons)
        self._loaded = _Loaded(card, PromptBuilder(info, backend, template))

    def card(self, allowed: Sequence[str], model_id: str = "") -> Card:
        """Gives the model's card to a caller.

        Args:
            allowed: Ids of the models the caller may use; empty is all.
            model_id: The model asked for; empty is this one.

        Raises:
            ModelNotFound: Another model is asked for, or the caller may not use this one.
            ModelLoading: It is not loaded.
        """
        visible = not allowed or self.id in allowed
        if not visible or model_id not in ("", self.id):
            raise ModelNotFound(model_id or self.id, (self.id,) if visible else ())
        return self._ready().card

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Mapping[str, Any],
        continue_final: bool,
        drop_oldest: bool,
    ) -> Generation:
        """Accepts a request: builds its prompt and queues it. The caller cancels the stream it no longer reads.

        Args:
            messages: The turns, oldest first.
            sampling: Fields of Sampling that the request gives; the others take the model's defaults.
            continue_final: The last message is left open.
            drop_oldest: Leave the oldest turns out when the prompt does not fit.

        Raises:
            DomainError: The request is refused; errors.py lists the reasons.
        """
        loaded = self._ready()
        options = replace(loaded.card.default_sampling, **sampling)
        options.check(loaded.card.info.vocabulary_size)
        self._engine.check_room(self._building)
        room_tokens = options.max_output_tokens or ORDINARY_ANSWER_TOKENS
        self._building += 1
        try:
            prompt = await self._work(lambda: loaded.prompts.build(messages, continue_final, drop_oldest, room_tokens))
        finally:
            self._building -= 1
        stream = self._engine.submit(Request(prompt.tokens, options, prompt.may_reason, prompt.in_reasoning))
        return Generation(stream, len(prompt.tokens), prompt.dropped_messages)

    def cancel(self, generation: Generation) -> None:
        """Frees what a request holds; harmless when it has ended."""
        self._engine.cancel(generation.stream)

    async def count(self, messages: Sequence[Message], continue_final: bool) -> int:
        """Counts the tokens of a prompt.

        Raises:
            InvalidField: The messages are no conversation the model takes.
        """
        loaded = self._ready()
        return await self._work(lambda: loaded.prompts.count(messages, continue_final))

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise ModelLoading()
        return self._loaded

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, job)
