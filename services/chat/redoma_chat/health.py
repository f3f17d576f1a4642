"""What the chat service says of its health: its own, by its database, and the models', as they say it by the egress."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_kit.channel import raise_if_cancelled_here
from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_kit.server import GrpcServer

MODEL_SERVICE = "redoma.model.v1.ModelService"
INTERVAL_S = 1.0
CHECK_TIMEOUT_S = 1.0
# Replicas that are asked when the first did not say that it serves.
MORE_REPLICAS = 3


class HealthMirror:
    """Looks at both once a second and tells the server's health service what changed.

    The egress sends each question to a replica at random, so one that does not serve, and that the egress has not left
    out yet, says nothing of the others: the models are away when none of several serves, twice in a row.
    """

    def __init__(
        self,
        server: GrpcServer,
        egress: grpc.aio.Channel,
        ping_store: Callable[[], Awaitable[None]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._server = server
        self._models = health_pb2_grpc.HealthStub(egress)
        self._ping_store = ping_store
        self._store_is_up: bool | None = None
        self._models_are_up: bool | None = None
        self._is_doubtful = False
        self._periodic = Periodic("health", INTERVAL_S, self.look, log)

    async def start(self) -> None:
        """Looks once, then goes on beside the service."""
        await self.look()
        self._periodic.start()

    async def stop(self) -> None:
        """Looks no more."""
        await self._periodic.stop()

    async def look(self) -> None:
        """Asks both and tells what changed."""
        store_is_up, models_serve = await asyncio.gather(self._store_answers(), self._models_serve())
        if store_is_up != self._store_is_up:
            self._store_is_up = store_is_up
            await self._server.set_serving(store_is_up)
        is_first_doubt = not models_serve and self._models_are_up is True and not self._is_doubtful
        self._is_doubtful = not models_serve
        if models_serve != self._models_are_up and not is_first_doubt:
            self._models_are_up = models_serve
            await self._server.set_serving(models_serve, [MODEL_SERVICE])

    async def _store_answers(self) -> bool:
        try:
            await self._ping_store()
        except StorageUnavailable:
            return False
        return True

    async def _models_serve(self) -> bool:
        return await self._one_serves() or any(
            await asyncio.gather(*(self._one_serves() for _ in range(MORE_REPLICAS)))
        )

    async def _one_serves(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=MODEL_SERVICE)
        try:
            response = await self._models.Check(request, timeout=CHECK_TIMEOUT_S)
        except asyncio.CancelledError:
            raise_if_cancelled_here()
            return False
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
