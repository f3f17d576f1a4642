"""The replicas of models as this service sees them when content is erased: caches to be dropped."""

import asyncio
from collections.abc import Callable, Mapping

import grpc

from redoma.model.v1 import engine_pb2
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma_kit.channel import raise_if_cancelled_here
from redoma_kit.identity import METADATA_KEY
from redoma_kit.routing import REPLICA_KEY
from redoma_tenant.privacy.eraser import NotAcknowledged

PURGE = "/redoma.model.v1.EngineService/PurgeTenant"
PURGE_WAIT_S = 20.0


class GrpcPurgeChannel:
    """The replicas behind the egress, at the other end of a gRPC channel. `mint` signs an identity for a method."""

    def __init__(self, egress: grpc.aio.Channel, mint: Callable[[str], str]) -> None:
        self._stub = EngineServiceStub(egress)
        self._mint = mint

    async def purge(self, replica: str, tenant: str) -> Mapping[str, int]:
        """Drops all that a replica, by its routing key, computed for the tenant, and ends its requests.

        Raises:
            NotAcknowledged: It does not answer, or could not drop all.
        """
        request = engine_pb2.PurgeTenantRequest(tenant=tenant)
        metadata = ((METADATA_KEY, self._mint(PURGE)), (REPLICA_KEY, replica))
        try:
            purged = await self._stub.PurgeTenant(request, timeout=PURGE_WAIT_S, metadata=metadata)
        except asyncio.CancelledError:
            raise_if_cancelled_here()
            raise NotAcknowledged(f"The call to purge the model {replica} was cut.") from None
        except grpc.aio.AioRpcError as error:
            raise NotAcknowledged(f"The model {replica} did not purge: {error.code().name}.") from None
        return {"kv_cells": purged.freed_cells, "host_bytes": purged.freed_host_bytes}
