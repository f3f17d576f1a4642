"""A model as callers see it: an id, its prompts and defaults, in front of an engine."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from redoma_kit.errors import DomainError, InvalidField
from redoma_model.adapters import Adapters
from redoma_model.embedding import Embedded, EmbedInput, check_inputs, embed, tokens_of
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import Backend, ModelInfo
from redoma_model.engine.engine import Engine
from redoma_model.engine.prompt import Prompt, PromptBuilder
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Stream
from redoma_model.engine.template import ChatTemplate, Message
from redoma_model.errors import AdapterNotFound, ModelFileError, ModelLoading
from redoma_model.forms.structured_output import FIELD as FORM_FIELD
from redoma_model.forms.structured_output import ResponseForm, grammar_of
from redoma_model.settings import SamplingSettings, default_sampling

# Room for the answer that shortening a prompt leaves when the request does not say how long the answer may be.
ORDINARY_ANSWER_TOKENS = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a request is computed, from the identity of its call.

    Attributes:
        weight: The tenant's share relative to others'.
        token_id: The identity's `jti`.
        adapter: What the request goes through; None is the base model.
        deadline: When the caller gives up, monotonic seconds; None is never.
    """

    tenant: str
    weight: int = 1
    token_id: str = ""
    adapter: LoadedAdapter | None = None
    deadline: float | None = None


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
    backend: Backend


class ServedModel:
    """One model that is served. Until `load` returns, every call raises ModelLoading.

    Prompts are built on `workers`, as rendering and tokenizing may take milliseconds.
    """

    def __init__(
        self,
        model_id: str,
        engine: Engine,
        adapters: Adapters,
        sampling: SamplingSettings,
        workers: Executor,
        public_prefixes: Sequence[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.id = model_id
        self.engine = engine
        self.adapters = adapters
        self._sampling = sampling
        self._workers = workers
        self._public_prefixes = public_prefixes
        self._now = now
        self._loaded: _Loaded | None = None
        self._building = 0
        self._calls = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def load(self) -> None:
        """Waits for the engine, prepares the model's prompts and defaults, its adapters and its public prefixes.

        Raises:
            ModelFileError: The model can't be loaded, its metadata holds nonsense, or a public prefix can't be kept.
            MemoryInsufficient: It would not fit the memory that is free.
        """
        backend = await self.engine.wait_loaded()
        info = backend.info
        template = ChatTemplate(info.chat_template, info.bos_token, info.eos_token)
        sampling = default_sampling(f"{info.display_name} {self.id}", info.recommended, self._sampling)
        try:
            sampling.check(info.vocabulary_size)
        except InvalidField as error:
            raise ModelFileError(f"The sampling the model's metadata recommends is out of range: {error}") from error
        await self.adapters.load_found()
        prompts = PromptBuilder(info, backend, template)
        await self._publish(prompts)
        card = Card(self.id, info, sampling, int(self._now()), template.reasons)
        self._loaded = _Loaded(card, prompts, backend)

    def card(self) -> Card:
        """Gives the model's card.

        Raises:
            ModelLoading: It is not loaded.
        """
        return self._ready().card

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the model from being freed while a call works with it."""
        self._calls += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._unused.set()

    async def wait_unused(self) -> None:
        """Waits until no call works with it."""
        await self._unused.wait()

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Mapping[str, Any],
        continue_final: bool,
        drop_oldest: bool,
        caller: Caller,
        form: ResponseForm | None = None,
        granted_tokens: int | None = None,
    ) -> Generation:
        """Accepts a request: builds its prompt and queues it. The caller cancels the stream it no longer reads.

        Args:
            messages: The turns, oldest first.
            sampling: Fields of Sampling that the request gives; the others take the model's defaults.
            continue_final: The last message is left open.
            drop_oldest: Leave the oldest turns out when the prompt does not fit.
            caller: For whom.
            form: What the answer must be; None is any text.
            granted_tokens: Most tokens to generate until `grant` allows more; None is as many as `sampling` allows.

        Raises:
            DomainError: The request is refused; errors.py lists the reasons.
        """
        loaded = self._ready()
        options = replace(loaded.card.default_sampling, **sampling)
        options.check(loaded.card.info.vocabulary_size)
        if form is not None and options.ignore_eos:
            raise InvalidField(FORM_FIELD, "can't go with ignore_eos: the form says where the answer ends.")
        room_tokens = options.max_output_tokens or ORDINARY_ANSWER_TOKENS

        def build() -> tuple[Prompt, str]:
            grammar = "" if form is None else grammar_of(form, loaded.backend)
            return loaded.prompts.build(messages, continue_final, drop_oldest, room_tokens), grammar

        prompt, grammar = await self._build(caller.tenant, build)
        request = Request(
            prompt.tokens,
            replace(options, grammar=grammar, begun=prompt.begun) if grammar else options,
            prompt.may_reason,
            prompt.in_reasoning,
            granted_tokens=granted_tokens,
        )
        stream = self.engine.submit(self._owned(request, caller), caller.deadline)
        return Generation(stream, len(prompt.tokens), prompt.dropped_messages)

    def grant(self, generation: Generation, tokens: int) -> None:
        """Lets a request have so many tokens in all; harmless when it has ended."""
        self.engine.grant(generation.stream, tokens)

    def cancel(self, generation: Generation) -> None:
        """Frees what a request holds; harmless when it has ended."""
        self.engine.cancel(generation.stream)

    async def embed(self, inputs: Sequence[EmbedInput], caller: Caller) -> Embedded:
        """Computes the embedding of each input, or of none.

        Raises:
            DomainError: The request is refused or fails; errors.py lists the reasons.
        """
        loaded = self._ready()
        info = loaded.card.info
        check_inputs(inputs)
        texts = await self._build(caller.tenant, lambda: tokens_of(loaded.prompts, info, inputs))
        asked = (Request(tokens, loaded.card.default_sampling, pooled=True) for tokens in texts)
        requests = [self._owned(request, caller) for request in asked]
        return await embed(self.engine, requests, info.slots, caller.deadline)

    async def count(self, messages: Sequence[Message], continue_final: bool) -> int:
        """Counts the tokens of a prompt.

        Raises:
            InvalidField: The messages are no conversation the model takes.
        """
        loaded = self._ready()
        return await self._work(lambda: loaded.prompts.count(messages, continue_final))

    async def _publish(self, prompts: PromptBuilder) -> None:
        """Computes the prefixes that all tenants share."""
        for place, system in enumerate(self._public_prefixes):
            try:
                await self.engine.publish(prompts.system_prefix(system))
            except (DomainError, ValueError) as error:
                raise ModelFileError(f"public_prefixes[{place}] can't be kept for {self.id}: {error}") from error

    def _owned(self, request: Request, caller: Caller) -> Request:
        """Gives the request as the caller's. Submit it before the event loop runs anything else.

        Raises:
            AdapterNotFound: Its adapter was taken out of service meanwhile.
        """
        adapter = caller.adapter
        if adapter is not None and self.adapters.loaded.get(adapter.digest) is not adapter:
            raise AdapterNotFound(adapter.digest)
        weight = max(1, caller.weight)
        return replace(request, tenant=caller.tenant, weight=weight, token_id=caller.token_id, adapter=adapter)

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise ModelLoading()
        return self._loaded

    async def _build(self, tenant: str, job: Callable[[], T]) -> T:
        self.engine.check_room(tenant, self._building)
        self._building += 1
        try:
            return await self._work(job)
        finally:
            self._building -= 1

    async def _work(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, job)
