"""What the tenant service reaches models by: a provisioner that lists their replicas, and an egress before them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from redoma.model.v1 import engine_pb2
from redoma.provisioner.v1 import network_pb2
from redoma_kit.routing import REPLICA_KEY
from redoma_kit.settings import TlsSettings, UpstreamSettings
from tests.fakes.server_credentials import server_credentials

# As Redoma's own servers: clients may ping each second, also on an idle connection.
SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]


class _Served:
    """Serves some methods of a service, on the port it had before if it had one."""

    def __init__(self, tls: TlsSettings, name: str) -> None:
        self._tls = tls
        self._name = name
        self._port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def upstream(self) -> UpstreamSettings:
        """Where it is."""
        return UpstreamSettings(target=f"127.0.0.1:{self._port}", server_name=f"{self._name}.public.redoma")

    def handler(self) -> grpc.GenericRpcHandler:
        """Gives the methods."""
        raise NotImplementedError

    async def start(self) -> None:
        """Serves."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((self.handler(),))
        self._port = self._server.add_secure_port(f"127.0.0.1:{self._port}", server_credentials(self._tls))
        await self._server.start()

    async def stop(self) -> None:
        """Drops every connection, as a killed process does."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None


class FakeReplicaDirectory(_Served):
    """A provisioner of which only WatchReplicas is there; it says nothing before `show` was called.

    Attributes:
        watching: How many watch now.
    """

    def __init__(self, tls: TlsSettings) -> None:
        super().__init__(tls, "provisioner")
        self.watching = 0
        self._keys: tuple[str, ...] = ()
        self._version = 0
        self._changed = asyncio.Condition()

    async def show(self, *keys: str) -> None:
        """Lists the replicas of these routing keys from now on."""
        async with self._changed:
            self._keys = keys
            self._version += 1
            self._changed.notify_all()

    def handler(self) -> grpc.GenericRpcHandler:
        """Gives WatchReplicas."""
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=network_pb2.WatchReplicasRequest.FromString,
            response_serializer=network_pb2.WatchReplicasResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("redoma.provisioner.v1.NetworkService", {"WatchReplicas": watch})

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[network_pb2.WatchReplicasResponse]:
        self.watching += 1
        seen = 0
        try:
            while True:
                async with self._changed:
                    while self._version == seen:
                        await self._changed.wait()
                    seen, keys = self._version, self._keys
                response = network_pb2.WatchReplicasResponse()
                for key in keys:
                    response.replicas.add(routing_key=key, site=f"sites/{key.partition('.')[0]}")
                yield response
        finally:
            self.watching -= 1


class FakeEgress(_Served):
    """Sends each call of EngineService to the fake of the replica that it names; without one it has nowhere to go.

    Attributes:
        replicas: The fakes, by routing key.
    """

    def __init__(self, tls: TlsSettings, **replicas: Any) -> None:
        super().__init__(tls, "egress")
        self.replicas: dict[str, Any] = dict(replicas)

    def handler(self) -> grpc.GenericRpcHandler:
        """Gives what the tenant service calls."""
        messages: dict[str, tuple[Any, Any]] = {
            "PurgeTenant": (engine_pb2.PurgeTenantRequest, engine_pb2.PurgeTenantResponse),
            "ListUsageRecords": (engine_pb2.ListUsageRecordsRequest, engine_pb2.ListUsageRecordsResponse),
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._forward(name),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in messages.items()
        }
        return grpc.method_handlers_generic_handler("redoma.model.v1.EngineService", handlers)

    def _forward(self, name: str) -> Any:
        async def forward(request: Any, context: Any) -> Any:
            replica = self.replicas.get(dict(context.invocation_metadata()).get(REPLICA_KEY, ""))
            if replica is None:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
            return await getattr(replica, name)(request, context)

        return forward
