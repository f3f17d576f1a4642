"""The composition root of the model service."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from redoma.model.v1 import engine_pb2_grpc, model_pb2_grpc
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_model.adapters import Adapters
from redoma_model.admission import Admission
from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.engine import Engine
from redoma_model.engine.turnstile import Turnstile
from redoma_model.errors import MODEL_ERRORS, EngineStalled
from redoma_model.journal import UsageJournal
from redoma_model.metrics import EngineMetrics
from redoma_model.models import Models, Report, reporting
from redoma_model.policy import MODEL_POLICY
from redoma_model.served import ServedModel
from redoma_model.servicers.engine import ENGINE_SERVICE, EngineServicer
from redoma_model.servicers.model import MODEL_SERVICE, ModelServicer
from redoma_model.settings import ModelSettings

AUDIENCE = "model"
PROMPT_WORKERS = 2
# Gives what loads the model of these settings.
LoaderFactory = Callable[[ModelSettings], BackendLoader]


class ModelServer:
    """The service with all its parts."""

    def __init__(
        self, settings: ModelSettings, loaders: LoaderFactory, telemetry: Telemetry, log: structlog.stdlib.BoundLogger
    ) -> None:
        verifier = IdentityVerifier(settings.jwks_file, AUDIENCE)
        admission = Admission(settings.dedicated_tenant)
        self._log = log
        self._loaders = loaders
        self._metrics = EngineMetrics(telemetry)
        self._workers = ThreadPoolExecutor(PROMPT_WORKERS, thread_name_prefix="prompt")
        self._turnstile = Turnstile()
        self.journal = UsageJournal(settings.usage_records)
        self.models = Models(settings, self._make_model, log)
        self.grpc = GrpcServer(settings, MODEL_POLICY, MODEL_ERRORS, verifier, telemetry, log)
        tenants = ModelServicer(self.models, admission)
        operators = EngineServicer(self.models, self.journal, admission, settings, self.grpc.drain)
        self.grpc.add(partial(model_pb2_grpc.add_ModelServiceServicer_to_server, tenants), MODEL_SERVICE)
        self.grpc.add(partial(engine_pb2_grpc.add_EngineServiceServicer_to_server, operators), ENGINE_SERVICE)

    @property
    def model(self) -> ServedModel:
        """The default model."""
        return self.models.default

    @property
    def engine(self) -> Engine:
        """The default model's engine."""
        return self.model.engine

    async def start(self) -> None:
        """Binds the port, then begins to load the models; health says when they are loaded.

        Raises:
            AddressInUse: The address can't be bound.
        """
        await self.grpc.start()
        # Operators are told that it loads, and may see to it.
        await self.grpc.set_serving(True, [ENGINE_SERVICE])
        self.models.start()

    async def become_ready(self) -> None:
        """Waits until the models are loaded and turns health SERVING.

        Raises:
            ModelFileError: One can't be loaded.
            MemoryInsufficient: One would not fit the memory that is free.
        """
        await self.models.become_ready()
        await self.grpc.set_serving(True)
        self._log.info("ready", models=[model.id for model in self.models.listed()])

    async def run(self) -> None:
        """Serves until SIGTERM, or until an engine dies.

        Raises:
            ModelFileError: A model can't be loaded.
            MemoryInsufficient: One would not fit the memory that is free.
            EngineStalled: An engine hangs; the process must end without waiting for it.
            Exception: What an engine died of.
        """
        await self.start()
        serving = asyncio.create_task(self.grpc.serve_until_stopped(self.close))
        watching = asyncio.create_task(self._watch())
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        failure = watching.exception() if watching.done() else None
        if isinstance(failure, EngineStalled):
            # What runs can't end: there is nothing to wait for.
            raise failure
        self.grpc.request_stop()
        await serving
        watching.cancel()
        if failure is not None:
            raise failure

    async def _watch(self) -> None:
        await self.become_ready()
        await self.models.wait_failed()

    async def close(self) -> None:
        """Stops the engines and the workers."""
        await self.models.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _make_model(self, settings: ModelSettings, report: Report) -> ServedModel:
        model_id = settings.model_id
        engine = Engine(
            reporting(self._loaders(settings), report),
            settings.limits,
            self._metrics.of(model_id),
            self.journal.of(model_id),
            self._turnstile,
        )
        adapters = Adapters(engine, settings.file, settings.adapters_dir, self._log.bind(model=model_id))
        return ServedModel(model_id, engine, adapters, settings.sampling, self._workers, settings.public_prefixes)
