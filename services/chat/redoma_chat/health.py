"""What the chat service says of its health: its own, by its database, and the model's, as the model says it."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_kit.server import GrpcServer

MODEL_SERVICE = "redoma.model.v1.ModelService"
INTERVAL_S = 1.0
CHECK_TIMEOUT_S = 1.0


class HealthMirror:
    """Looks at both once a second and tells the server's health service what changed."""

    def __init__(
        self,
        server: GrpcServer,
        model_channel: grpc.aio.Channel,
        ping_store: Callable[[], Awaitable[None]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._server = server
        self._model = health_pb2_grpc.HealthStub(model_channel)
        self._ping_store = ping_store
        self._store_is_up: bool | None = None
        self._model_is_up: bool | None = None
        self._periodic = Periodic("health", INTERVAL_S, self._look, log)

    async def start(self) -> None:
        """Looks once, then goes on beside the service."""
        await self._look()
        self._periodic.start()

    async def stop(self) -> None:
        """Looks no more."""
        await self._periodic.stop()

    async def _look(self) -> None:
        store_is_up, model_is_up = await asyncio.gather(self._store_answers(), self._model_serves())
        if store_is_up != self._store_is_up:
            self._store_is_up = store_is_up
            await self._server.set_serving(store_is_up)
        if model_is_up != self._model_is_up:
            self._model_is_up = model_is_up
            await self._server.set_serving(model_is_up, [MODEL_SERVICE])

    async def _store_answers(self) -> bool:
        try:
            await self._ping_store()
        except StorageUnavailable:
            return False
        return True

    async def _model_serves(self) -> bool:
        try:
            response = await self._model.Check(
                health_pb2.HealthCheckRequest(service=MODEL_SERVICE), timeout=CHECK_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
