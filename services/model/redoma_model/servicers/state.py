"""EngineService's messages: what engines, adapters and the journal tell of themselves."""

import time
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from redoma.common.v1 import usage_pb2
from redoma.model.v1 import engine_pb2 as pb
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.state import EngineSnapshot, TenantState
from redoma_model.engine.usage import Ending
from redoma_model.journal import UsageRecord
from redoma_model.served import ServedModel
from redoma_model.servicers.translate import model_message

MAX_TENANTS = 1_000
_FINISH_REASONS = {
    None: usage_pb2.FINISH_REASON_UNSPECIFIED,
    Ending.STOP: usage_pb2.FINISH_REASON_STOP,
    Ending.LENGTH: usage_pb2.FINISH_REASON_LENGTH,
    Ending.CANCELLED: usage_pb2.FINISH_REASON_CANCELLED,
    Ending.INTERRUPTED: usage_pb2.FINISH_REASON_INTERRUPTED,
}


def state_message(
    models: Iterable[tuple[ServedModel, EngineSnapshot]], aliases: Mapping[str, str], dedicated_tenant: str
) -> pb.EngineState:
    """Writes what the process is doing."""
    return pb.EngineState(
        take_time=_timestamp(time.time()),
        models=[_model(model, snapshot, aliases) for model, snapshot in models],
        dedicated_tenant=dedicated_tenant,
    )


def adapter_message(adapter: LoadedAdapter, requests: int) -> pb.Adapter:
    """Writes an adapter and how many requests use it."""
    return pb.Adapter(
        digest=adapter.digest,
        tenant=adapter.tenant,
        base_digest=adapter.base_digest,
        name=adapter.name,
        scale=adapter.scale,
        requests=requests,
    )


def record_message(record: UsageRecord) -> pb.UsageRecord:
    """Writes what a request cost."""
    counts = record.counts
    return pb.UsageRecord(
        token_id=record.token_id,
        tenant=record.tenant,
        model=record.model,
        adapter=record.adapter,
        start_time=_timestamp(record.started_at_s),
        end_time=None if record.ended_at_s is None else _timestamp(record.ended_at_s),
        usage=usage_pb2.Usage(
            input_tokens=counts.input_tokens,
            cached_input_tokens=counts.cached_input_tokens,
            output_tokens=counts.output_tokens,
            reasoning_tokens=counts.reasoning_tokens,
        ),
        finish_reason=_FINISH_REASONS[record.ending],
    )


def _model(model: ServedModel, snapshot: EngineSnapshot, aliases: Mapping[str, str]) -> pb.ModelState:
    loaded = model.adapters.loaded
    return pb.ModelState(
        model=model_message(model.card()),
        aliases=sorted(alias for alias, model_id in aliases.items() if model_id == model.id),
        running=snapshot.running,
        waiting=snapshot.waiting,
        preempted=snapshot.preempted,
        cells=snapshot.cells,
        used_cells=snapshot.used_cells,
        cached_cells=snapshot.cached_cells,
        swapped_bytes=snapshot.swapped_bytes,
        host_cache_bytes=snapshot.host_cache_bytes,
        steps=snapshot.steps,
        step_median_s=snapshot.step_median_s,
        step_max_s=snapshot.step_max_s,
        step_budget_tokens=snapshot.step_budget_tokens,
        prefill_tokens=snapshot.prefill_tokens,
        output_tokens=snapshot.output_tokens,
        preemptions=snapshot.preemptions,
        drafted_tokens=snapshot.drafted_tokens,
        accepted_draft_tokens=snapshot.accepted_draft_tokens,
        tenants=[_tenant(tenant) for tenant in snapshot.tenants[:MAX_TENANTS]],
        adapters=[
            adapter_message(adapter, snapshot.adapter_requests.get(digest, 0))
            for digest, adapter in sorted(loaded.items())
        ],
    )


def _tenant(tenant: TenantState) -> pb.TenantState:
    return pb.TenantState(
        tenant=tenant.tenant,
        weight=tenant.weight,
        counter=tenant.counter,
        running=tenant.running,
        waiting=tenant.waiting,
        preempted=tenant.preempted,
        used_cells=tenant.used_cells,
        cached_cells=tenant.cached_cells,
        input_tokens=tenant.input_tokens,
        cached_input_tokens=tenant.cached_input_tokens,
        output_tokens=tenant.output_tokens,
    )


def _timestamp(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromNanoseconds(int(seconds * 1e9))
    return moment
