"""A model process that has a journal of what requests cost, and nothing else."""

from dataclasses import dataclass, field

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.common.v1.usage_pb2 import Usage
from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import engine_pb2_grpc
from redoma_kit.identity import METADATA_KEY


@dataclass(slots=True)
class FakeJournal(engine_pb2_grpc.EngineServiceServicer):
    """Keeps the records it is given, and the identities it is asked with."""

    records: dict[str, pb.UsageRecord] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    is_away: bool = False
    fails_as: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE

    def keep(
        self, token_id: str, usage: Usage, tenant: str = "acme", model: str = "m", *, has_ended: bool = True
    ) -> None:
        """Makes a record, or changes it."""
        end_time = Timestamp(seconds=1) if has_ended else None
        self.records[token_id] = pb.UsageRecord(
            token_id=token_id, tenant=tenant, model=model, usage=usage, end_time=end_time
        )

    async def ListUsageRecords(
        self,
        request: pb.ListUsageRecordsRequest,
        context: "grpc.aio.ServicerContext[pb.ListUsageRecordsRequest, pb.ListUsageRecordsResponse]",
    ) -> pb.ListUsageRecordsResponse:
        """Lists records of the calls that are named."""
        self.asked.append(list(request.token_ids))
        self.identities += [str(value) for key, value in context.invocation_metadata() or () if key == METADATA_KEY]
        if self.is_away:
            await context.abort(self.fails_as, "away")
        known = (self.records.get(token_id) for token_id in request.token_ids)
        return pb.ListUsageRecordsResponse(records=[record for record in known if record is not None])
