"""A model process as this service sees it when use is corrected: its journal of what requests cost."""

from collections.abc import Callable, Sequence

import grpc

from redoma.model.v1 import engine_pb2
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma_kit.identity import METADATA_KEY
from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.reconciliation import UsageRecord

LIST = "/redoma.model.v1.EngineService/ListUsageRecords"
ANSWER_WAIT_S = 5.0
MOST_RECORDS = 1_000


class GrpcJournalChannel:
    """A model process at the other end of a gRPC channel. `mint` signs an identity for a method of it."""

    def __init__(self, channel: grpc.aio.Channel, mint: Callable[[str], str]) -> None:
        self._stub = EngineServiceStub(channel)
        self._mint = mint

    async def records(self, token_ids: Sequence[str]) -> Sequence[UsageRecord] | None:
        """Gives what it knows of at most MOST_RECORDS calls by their `jti`; None if it does not answer."""
        request = engine_pb2.ListUsageRecordsRequest(token_ids=token_ids, page_size=MOST_RECORDS)
        metadata = ((METADATA_KEY, self._mint(LIST)),)
        try:
            response = await self._stub.ListUsageRecords(request, timeout=ANSWER_WAIT_S, metadata=metadata)
        except grpc.aio.AioRpcError:
            return None
        return [_record(record) for record in response.records]


def _record(record: engine_pb2.UsageRecord) -> UsageRecord:
    usage = record.usage
    counts = TokenCounts.told(
        usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens
    )
    return UsageRecord(record.token_id, record.tenant, record.model, counts, record.HasField("end_time"))
