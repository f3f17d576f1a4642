"""`redoma engine top`: who gets what of the model process, live."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from redoma.model.v1.engine_pb2 import (
    EngineState,
    GetEngineStateRequest,
    ModelState,
    TenantState,
    WatchEngineRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json
from redoma_cli.context import make_context
from redoma_cli.errors import ENGINE_MENDS

BAR_CHARACTERS = 20
# What a token of a prompt and a generated one count of the service, as in the engine's fair share.
INPUT_COST, OUTPUT_COST = 1.0, 2.0
COLUMNS = ("tenant", "weight", "share", "running", "waiting", "preempted", "cells", "cached", "tok/s")


def top(
    once: Annotated[bool, typer.Option("--once", help="Show the state one time.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two states.")] = 1.0,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who gets what of the model process, until Ctrl-C. Rates and shares are of the last interval."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS), suppress(KeyboardInterrupt):
        states = watch(client, interval)
        if as_json or once or not context.out.is_terminal:
            former: EngineState | None = None
            for state in states:
                if as_json:
                    print_json(state)
                else:
                    context.out.print(view(state, former))
                former = state
                if once:
                    return
        with Live(console=context.out, auto_refresh=False) as live:
            former = None
            for state in states:
                live.update(view(state, former), refresh=True)
                former = state


def get_state(client: EdgeClient) -> EngineState:
    """Asks for the state once."""
    return client.engine.GetEngineState(GetEngineStateRequest(), timeout=CALL_TIMEOUT_S).state


def watch(client: EdgeClient, interval_s: float) -> Iterator[EngineState]:
    """Gives the state again and again. A stream that reached the longest time a call may last is opened anew."""
    interval = Duration()
    interval.FromNanoseconds(int(interval_s * 1e9))
    while True:
        try:
            for response in client.engine.WatchEngine(WatchEngineRequest(interval=interval)):
                yield response.state
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise


def view(state: EngineState, former: EngineState | None) -> RenderableType:
    """Draws a state; `former` is the one before it, which rates and shares are measured from."""
    before = {model.model.id: model for model in former.models} if former else {}
    took_s = (state.take_time.ToNanoseconds() - former.take_time.ToNanoseconds()) / 1e9 if former else 0.0
    parts: list[RenderableType] = []
    if state.dedicated_tenant:
        parts.append(f"Serves the tenant [bold]{escape(state.dedicated_tenant)}[/] alone.")
    for model in state.models:
        known = before.get(model.model.id)
        # A model that was loaded anew counts from nothing.
        if known is not None and known.model.load_time_s != model.model.load_time_s:
            known = None
        parts += [header(model, known, took_s), tenants(model, known, took_s)]
    return Group(*parts)


def header(model: ModelState, former: ModelState | None, took_s: float) -> str:
    """Writes the lines above a model's tenants."""
    names = " = ".join([f"[bold]{escape(model.model.id)}[/]", *map(escape, model.aliases)])
    lines = [
        f"{names}  {model.running} running, {model.waiting} waiting, {model.preempted} preempted",
        f"  cells {bar(model)} {model.used_cells} of {model.cells}, {model.cached_cells} cached"
        + (f"; {_megabytes(model.swapped_bytes + model.host_cache_bytes)} on the host" if _on_host(model) else ""),
        f"  step {model.step_median_s * 1e3:.1f} ms median, {model.step_max_s * 1e3:.1f} ms longest,"
        f" at most {model.step_budget_tokens} tokens  ·  prefill {_rate(model, former, 'prefill_tokens', took_s)} tok/s"
        f"  ·  output {_rate(model, former, 'output_tokens', took_s)} tok/s",
        f"  drafts accepted {percent(*drafts(model, former))}  ·  input from cache"
        f" {percent(*cache_hits(model, former))}  ·  {model.preemptions} preemptions",
    ]
    return "\n".join(lines)


def bar(model: ModelState) -> str:
    """Draws the KV cells in use: by requests alone, as cached prefixes, free."""
    cells = max(1, model.cells)
    used = round(BAR_CHARACTERS * min(1.0, model.used_cells / cells))
    cached = min(used, round(BAR_CHARACTERS * model.cached_cells / cells))
    return f"[green]{'█' * (used - cached)}[/][cyan]{'▓' * cached}[/]{'░' * (BAR_CHARACTERS - used)}"


def tenants(model: ModelState, former: ModelState | None, took_s: float) -> Table:
    """Draws a model's tenants, most service first."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 2))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "tenant" else "right")
    before = {tenant.tenant: tenant for tenant in former.tenants} if former else {}
    served = [(tenant, service(tenant, before.get(tenant.tenant))) for tenant in model.tenants]
    total = sum(amount for _, amount in served)
    for tenant, amount in sorted(served, key=lambda pair: -pair[1]):
        known = before.get(tenant.tenant)
        produced = tenant.output_tokens - (known.output_tokens if known else 0)
        table.add_row(
            escape(tenant.tenant),
            str(tenant.weight),
            percent(amount, total),
            str(tenant.running),
            str(tenant.waiting),
            str(tenant.preempted),
            str(tenant.used_cells),
            percent(tenant.cached_input_tokens, tenant.input_tokens),
            f"{produced / took_s:.1f}" if took_s else "–",
        )
    return table


def service(tenant: TenantState, former: TenantState | None) -> float:
    """Gives what was computed for a tenant since the former state, or since the model was loaded."""
    known = former if former is not None and former.output_tokens <= tenant.output_tokens else TenantState()
    computed = (tenant.input_tokens - tenant.cached_input_tokens) - (known.input_tokens - known.cached_input_tokens)
    return max(0.0, INPUT_COST * computed + OUTPUT_COST * (tenant.output_tokens - known.output_tokens))


def drafts(model: ModelState, former: ModelState | None) -> tuple[float, float]:
    """Gives how many drafted tokens were accepted, and how many were drafted."""
    known = former or ModelState()
    return (
        model.accepted_draft_tokens - known.accepted_draft_tokens,
        model.drafted_tokens - known.drafted_tokens,
    )


def cache_hits(model: ModelState, former: ModelState | None) -> tuple[float, float]:
    """Gives how many tokens of prompts came from the prefix cache, and how many there were."""

    def counted(state: ModelState) -> tuple[int, int]:
        return sum(one.cached_input_tokens for one in state.tenants), sum(one.input_tokens for one in state.tenants)

    (cached, given), (cached_before, given_before) = counted(model), counted(former or ModelState())
    return cached - cached_before, given - given_before


def percent(part: float, whole: float) -> str:
    """Writes a part of a whole; a dash where there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "–"


def _rate(model: ModelState, former: ModelState | None, counter: str, took_s: float) -> str:
    if former is None or took_s <= 0:
        return "–"
    return f"{max(0, getattr(model, counter) - getattr(former, counter)) / took_s:.0f}"


def _on_host(model: ModelState) -> bool:
    return bool(model.swapped_bytes or model.host_cache_bytes)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
