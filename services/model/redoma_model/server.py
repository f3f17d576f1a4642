"""The composition root of the model service."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog

from redoma.model.v1 import model_pb2_grpc
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.engine import Engine
from redoma_model.errors import MODEL_ERRORS
from redoma_model.metrics import EngineMetrics
from redoma_model.policy import MODEL_POLICY
from redoma_model.served import ServedModel
from redoma_model.servicer import SERVICE, ModelServicer
from redoma_model.settings import ModelSettings

AUDIENCE = "model"
PROMPT_WORKERS = 2


class ModelServer:
    """The service with all its parts."""

    def __init__(
        self, settings: ModelSettings, load: BackendLoader, telemetry: Telemetry, log: structlog.stdlib.BoundLogger
    ) -> None:
        verifier = IdentityVerifier(settings.jwks_file, AUDIENCE)
        self._log = log
        self._workers = ThreadPoolExecutor(PROMPT_WORKERS, thread_name_prefix="prompt")
        self.engine = Engine(load, settings.limits, EngineMetrics(telemetry))
        self.model = ServedModel(settings.model_id, self.engine, settings.sampling, self._workers)
        self.grpc = GrpcServer(settings, MODEL_POLICY, MODEL_ERRORS, verifier, telemetry, log)
        servicer = ModelServicer(self.model)
        self.grpc.add(lambda server: model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server), SERVICE)

    async def start(self) -> None:
        """Binds the port, then begins to load the model; health says when it is loaded.

        Raises:
            AddressInUse: The address can't be bound.
        """
        await self.grpc.start()
        self.engine.start()

    async def become_ready(self) -> None:
        """Waits until the model is loaded and turns health SERVING.

        Raises:
            ModelFileError: It can't be loaded.
        """
        await self.model.load()
        await self.grpc.set_serving(True)
        self._log.info("ready", model=self.model.id)

    async def run(self) -> None:
        """Serves until SIGTERM, or until the engine dies.

        Raises:
            ModelFileError: The model can't be loaded.
            Exception: What the engine died of.
        """
        await self.start()
        serving = asyncio.create_task(self.grpc.serve_until_stopped(self.close))
        watching = asyncio.create_task(self._watch())
        await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
        failure = watching.exception() if watching.done() else None
        self.grpc.request_stop()
        await serving
        watching.cancel()
        if failure is not None:
            raise failure

    async def _watch(self) -> None:
        await self.become_ready()
        await self.engine.wait_ended()

    async def close(self) -> None:
        """Stops the engine and the workers."""
        await self.engine.stop()
        self._workers.shutdown(wait=False, cancel_futures=True)
