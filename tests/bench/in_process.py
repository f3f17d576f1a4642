"""Engines in this process, set up as `redoma-model` sets them up, without a service round them."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from redoma_kit.settings import MetricsSettings, TlsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import ModelInfo
from redoma_model.engine.engine import Engine
from redoma_model.engine.prompt import PromptBuilder
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.state import EngineSnapshot
from redoma_model.engine.stream import Delta
from redoma_model.engine.template import ChatTemplate, Message, Role
from redoma_model.engine.turnstile import Turnstile
from redoma_model.journal import UsageJournal
from redoma_model.loading import LlamaModels
from redoma_model.metrics import EngineMetrics
from redoma_model.settings import ModelSettings
from tests.bench.core_loop import CoreLoop
from tests.bench.load import Arrival, Ask

WEIGHT = 100
USAGE_RECORDS = 10_000
_NOWHERE = Path("/dev/null")


class LocalEngine:
    """A target: an engine of this process.

    Attributes:
        settings: It was made of.
        weights: The share of a tenant, where it is not the ordinary one.
        adapters: What a tenant's requests go through.
    """

    def __init__(self, name: str, engine: Engine, settings: ModelSettings, info: ModelInfo, prompts: PromptBuilder):
        self.settings = settings
        self.weights: dict[str, int] = {}
        self.adapters: dict[str, LoadedAdapter] = {}
        self._name = name
        self._engine = engine
        self._info = info
        self._prompts = prompts

    @property
    def name(self) -> str:
        """What tables call it."""
        return self._name

    def tokens_of(self, ask: Ask) -> tuple[int, ...]:
        """Gives the prompt of an ask."""
        messages = [Message(Role(role), content) for role, content in ask.turns]
        return self._prompts.build(messages, False, False, ask.tokens).tokens

    def cut(self, text: str, tokens: int) -> tuple[int, ...]:
        """Gives the first `tokens` tokens of a text, without any template."""
        return tuple(self._prompts.content_tokens(text))[:tokens]

    async def prepare(self, asks: Sequence[Ask]) -> None:
        """Has nothing to prepare."""

    def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Submits a request."""
        return self.submit(ask.tenant, self.tokens_of(ask), ask.tokens, ask.temperature)

    async def submit(
        self, tenant: str, prompt: tuple[int, ...], tokens: int, temperature: float
    ) -> AsyncGenerator[Arrival, None]:
        """Submits a request with a prompt that is tokenized already."""
        sampling = Sampling(temperature=temperature, max_output_tokens=tokens, ignore_eos=True)
        weight, adapter = self.weights.get(tenant, WEIGHT), self.adapters.get(tenant)
        token_id = uuid.uuid4().hex
        request = Request(prompt, sampling, tenant=tenant, weight=weight, token_id=token_id, adapter=adapter)
        stream = self._engine.submit(request)
        try:
            async for event in stream:
                if isinstance(event, Delta):
                    yield Arrival(event.tokens, event.text)
        finally:
            self._engine.cancel(stream)

    async def purge(self, tenant: str) -> None:
        """Drops what is cached of a tenant."""
        await self._engine.purge(tenant)

    async def snapshot(self) -> EngineSnapshot:
        """Gives what the engine is doing."""
        return await self._engine.snapshot()

    async def adopt(self, tenant: str, file: Path) -> None:
        """Loads an adapter, which the tenant's requests go through from now on."""
        digest = f"sha256:{file.stem:0>64}"
        adapter = LoadedAdapter(digest, tenant, "", file.stem, 1.0)
        self.adapters[tenant] = await self._engine.load_adapter(adapter, file)


class Workshop:
    """Makes engines over one file, whose weights they share, and stops them at the end of `stack`."""

    def __init__(self, model: Path, stack: AsyncExitStack) -> None:
        tls = TlsSettings(ca_file=_NOWHERE, cert_file=_NOWHERE, key_file=_NOWHERE)
        self._settings = ModelSettings(file=model, tls=tls, jwks_file=_NOWHERE)
        self._stack = stack
        self._models = LlamaModels()
        self._metrics = EngineMetrics(Telemetry("bench", MetricsSettings(), TracingSettings()))
        self._journal = UsageJournal(USAGE_RECORDS)
        self._turnstile = Turnstile()

    def core(self, **settings: object) -> CoreLoop:
        """Makes a core without an engine round it; `settings` as for `engine`."""
        own = self._own(settings)
        core = CoreLoop(self._models(own)(lambda _: True), own, self._metrics.of("core"), self._journal.of("core"))
        self._stack.callback(core.close)
        return core

    async def engine(self, name: str = "engine", **settings: object) -> LocalEngine:
        """Starts an engine; `settings` are those of the model service that differ from its defaults."""
        own = self._own(settings)
        observer, usage = self._metrics.of(name), self._journal.of(name)
        running = Engine(self._models(own), own.limits, observer, usage, self._turnstile)
        running.start()
        self._stack.push_async_callback(running.stop)
        backend = await running.wait_loaded()
        info = backend.info
        template = ChatTemplate(info.chat_template, info.bos_token, info.eos_token)
        return LocalEngine(name, running, own, info, PromptBuilder(info, backend, template))

    def _own(self, settings: dict[str, object]) -> ModelSettings:
        return ModelSettings.model_validate(self._settings.model_dump() | settings)
