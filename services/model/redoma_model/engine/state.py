"""What an engine tells of itself between two steps: counts and times, never content."""

from dataclasses import dataclass
from statistics import median

from redoma_model.engine.fair_share import Account, FairShare
from redoma_model.engine.pace import Pace
from redoma_model.engine.places import Places


@dataclass(frozen=True, slots=True)
class TenantState:
    """What one tenant gets of the engine.

    Attributes:
        counter: Its virtual token counter: weighted tokens of service over its weight.
        running: Requests in the batch.
        waiting: Requests that wait for their first place.
        preempted: Requests that gave their place up for a time.
        used_cells: KV cells of its requests and of its cached prefixes.
        cached_cells: KV cells of its cached prefixes.
        input_tokens: Of its prompts, since the model was loaded.
        cached_input_tokens: Those of them that were reused from its own earlier requests.
        output_tokens: Generated for it, since the model was loaded.
    """

    tenant: str
    weight: int
    counter: float
    running: int
    waiting: int
    preempted: int
    used_cells: int
    cached_cells: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What an engine is doing.

    Attributes:
        running: Requests in the batch.
        waiting: Requests that wait for their first place.
        preempted: Requests that gave their place up for a time.
        free_slots: Places nobody has.
        used_cells: KV cells that hold a token, cached prefixes included.
        cached_cells: Those of them that hold cached prefixes.
        swapped_bytes: Host memory of swapped sequences.
        host_cache_bytes: Host memory of cached prefixes.
        steps: Computed since the model was loaded.
        step_median_s: Median duration of the last steps.
        step_max_s: The longest of them.
        step_budget_tokens: Most tokens of a step that the engine aims at.
        prefill_tokens: Prompt tokens computed since the model was loaded.
        output_tokens: Tokens generated since.
        preemptions: Times a request gave its place up since.
        drafted_tokens: Tokens proposed by prompt lookup since.
        accepted_draft_tokens: Those of them that the samplers picked.
        tenants: Most service first.
        adapter_requests: Requests, running or waiting, by the digest of the adapter they use.
    """

    running: int
    waiting: int
    preempted: int
    free_slots: int
    cells: int
    used_cells: int
    cached_cells: int
    swapped_bytes: int
    host_cache_bytes: int
    steps: int
    step_median_s: float
    step_max_s: float
    step_budget_tokens: int
    prefill_tokens: int
    output_tokens: int
    preemptions: int
    drafted_tokens: int
    accepted_draft_tokens: int
    tenants: tuple[TenantState, ...]
    adapter_requests: dict[str, int]


@dataclass(frozen=True, slots=True)
class Purged:
    """What dropping a tenant freed."""

    ended_requests: int
    freed_cells: int
    freed_host_bytes: int


@dataclass(slots=True)
class StepTotals:
    """What steps did since the model was loaded."""

    prefill_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_draft_tokens: int = 0


def snapshot(
    places: Places, fair: FairShare, pace: Pace, totals: StepTotals, adapter_requests: dict[str, int]
) -> EngineSnapshot:
    """Takes the snapshot of an engine's parts."""
    scheduler, recent_s = places.scheduler, pace.recent_s
    cached = places.cache.tenant_cells()
    tenants = tuple(_tenant(account, places, cached.get(account.tenant, 0)) for account in fair.accounts())
    rows = sum(not sequence.is_prefill for sequence in scheduler.running)
    return EngineSnapshot(
        running=len(scheduler.running),
        waiting=sum(tenant.waiting for tenant in tenants),
        preempted=sum(tenant.preempted for tenant in tenants),
        free_slots=scheduler.free_slots,
        cells=places.cells,
        used_cells=places.used_cells,
        cached_cells=places.cache.cells,
        swapped_bytes=places.swapped_bytes,
        host_cache_bytes=places.cache.host_bytes,
        steps=pace.steps,
        step_median_s=median(recent_s) if recent_s else 0.0,
        step_max_s=max(recent_s, default=0.0),
        step_budget_tokens=rows + pace.prompt_tokens(rows),
        prefill_tokens=totals.prefill_tokens,
        output_tokens=totals.output_tokens,
        preemptions=places.preemptions,
        drafted_tokens=totals.drafted_tokens,
        accepted_draft_tokens=totals.accepted_draft_tokens,
        tenants=tenants,
        adapter_requests=adapter_requests,
    )


def _tenant(account: Account, places: Places, cached_cells: int) -> TenantState:
    line = places.scheduler.line(account.tenant)
    running = line.running if line else ()
    waiting = line.waiting if line else ()
    preempted = sum(sequence.is_preempted for sequence in waiting)
    return TenantState(
        tenant=account.tenant,
        weight=account.weight,
        counter=account.counter,
        running=len(running),
        waiting=len(waiting) - preempted,
        preempted=preempted,
        used_cells=cached_cells + sum(sequence.own_cells for sequence in running),
        cached_cells=cached_cells,
        input_tokens=account.input_tokens,
        cached_input_tokens=account.cached_input_tokens,
        output_tokens=account.output_tokens,
    )
