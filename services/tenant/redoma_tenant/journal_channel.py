"""The replicas of models as this service sees them when use is corrected: their journals of what requests cost."""

import asyncio
from collections.abc import Callable, Sequence

import grpc

from redoma.model.v1 import engine_pb2
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma_kit.channel import raise_if_cancelled_here
from redoma_kit.identity import METADATA_KEY
from redoma_kit.routing import REPLICA_KEY
from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.reconciliation import UsageRecord
from redoma_tenant.replicas import Replicas

LIST = "/redoma.model.v1.EngineService/ListUsageRecords"
ANSWER_WAIT_S = 5.0
MOST_RECORDS = 1_000


class GrpcJournals:
    """The journals behind the egress, at the other end of a gRPC channel. `mint` signs an identity for a method."""

    def __init__(self, egress: grpc.aio.Channel, mint: Callable[[str], str], replicas: Replicas) -> None:
        self._stub = EngineServiceStub(egress)
        self._mint = mint
        self._replicas = replicas

    async def records(self, token_ids: Sequence[str]) -> Sequence[Sequence[UsageRecord] | None]:
        """Gives what each replica knows of at most MOST_RECORDS calls by their `jti`.

        It is None for one that does not answer, and for those that nobody has listed yet.
        """
        known = self._replicas.known
        if known is None:
            return [None]
        return await asyncio.gather(*(self._of(replica, token_ids) for replica in known))

    async def _of(self, replica: str, token_ids: Sequence[str]) -> Sequence[UsageRecord] | None:
        request = engine_pb2.ListUsageRecordsRequest(token_ids=token_ids, page_size=MOST_RECORDS)
        metadata = ((METADATA_KEY, self._mint(LIST)), (REPLICA_KEY, replica))
        try:
            response = await self._stub.ListUsageRecords(request, timeout=ANSWER_WAIT_S, metadata=metadata)
        except asyncio.CancelledError:
            raise_if_cancelled_here()
            return None
        except grpc.aio.AioRpcError:
            return None
        return [_record(record) for record in response.records]


def _record(record: engine_pb2.UsageRecord) -> UsageRecord:
    usage = record.usage
    counts = TokenCounts.told(
        usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens
    )
    return UsageRecord(record.token_id, record.tenant, record.model, counts, record.HasField("end_time"))
