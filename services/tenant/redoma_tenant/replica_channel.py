"""The provisioner as this service sees it: it lists the replicas of models."""

import asyncio
from collections.abc import AsyncGenerator

import grpc

from redoma.provisioner.v1 import network_pb2
from redoma.provisioner.v1.network_pb2_grpc import NetworkServiceStub
from redoma_kit.channel import raise_if_cancelled_here


class GrpcReplicaFeed:
    """The provisioner at the other end of a gRPC channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = NetworkServiceStub(channel)

    async def lists(self) -> AsyncGenerator[tuple[str, ...], None]:
        """Gives the routing keys of all replicas at once, then again whenever they change; ends when it goes away."""
        call = self._stub.WatchReplicas(network_pb2.WatchReplicasRequest())
        try:
            async for response in call:
                yield tuple(sorted(replica.routing_key for replica in response.replicas))
        except grpc.aio.AioRpcError:
            return
        except asyncio.CancelledError:
            raise_if_cancelled_here()
        finally:
            call.cancel()
