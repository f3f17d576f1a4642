"""`redoma engine`: what the model process does, which models it serves, and what it holds of a tenant."""

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from redoma.common.v1.usage_pb2 import FinishReason
from redoma.model.v1.engine_pb2 import (
    DeleteModelAliasRequest,
    ListUsageRecordsRequest,
    LoadModelRequest,
    PurgeTenantRequest,
    SetModelAliasRequest,
    UnloadModelRequest,
    UsageRecord,
)
from redoma.model.v1.model_pb2 import Model
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands import engine_adapter, engine_top
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption, TenantArgument, YesOption
from redoma_cli.commands.output import list_table, print_json, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.context import make_context
from redoma_cli.errors import ENGINE_MENDS, CliError

ModelArgument = Annotated[str, typer.Argument(metavar="ID", help="The model's id; `redoma engine models` shows it.")]
# How long the running requests of an unloaded model may take to end.
UNLOAD_TIMEOUT_S = 600.0


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="See and steer the model process; needs the admin key.",
        epilog="Examples:  redoma engine top  ·  redoma engine load qwen.gguf",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("top", epilog="Example:  redoma engine top --interval 0.5")(engine_top.top)
    group.command("models", epilog="Example:  redoma engine models --json")(models)
    group.command("load", epilog="Example:  redoma engine load qwen/qwen2.5-0.5b.Q4_K_M.gguf --id qwen --slots 8")(load)
    group.command("unload", epilog="Example:  redoma engine unload qwen")(unload)
    group.command("alias", epilog="Examples:  redoma engine alias gpt-4o qwen  ·  redoma engine alias gpt-4o --delete")(
        alias
    )
    group.command("purge", epilog="Example:  redoma engine purge acme --yes")(purge)
    group.command("usage", epilog="Example:  redoma engine usage --tenant acme --limit 20")(usage)
    group.add_typer(engine_adapter.build(), name="adapter")
    return group


def models(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the models that are loaded, the default one first."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        state = engine_top.get_state(client)
    if as_json:
        print_json(state.models)
        return
    columns = ("model", "aliases", "quantization", "size", "context", "slots", "adapters", "loaded")
    table = list_table(columns, right=("size", "context", "slots", "adapters"))
    for entry in state.models:
        model = entry.model
        table.add_row(
            model.id,
            ", ".join(entry.aliases),
            model.quantization,
            f"{model.size_bytes / 1e6:,.0f} MB",
            str(model.context_tokens),
            str(model.slots),
            str(len(entry.adapters)),
            short_time(Timestamp(seconds=model.load_time_s)),
        )
    context.out.print(table)


def load(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The GGUF file's path in the service's model folder.")],
    model_id: Annotated[str, typer.Option("--id", help="Its id for callers; made of the file's name by default.")] = "",
    slots: Annotated[int, typer.Option(min=0, max=128, help="Requests computed at once; 0 is as the first model.")] = 0,
    kv_cells: Annotated[int, typer.Option(min=0, help="Tokens its KV cache holds; 0 sizes it by the memory.")] = 0,
    context_tokens: Annotated[
        int, typer.Option(min=0, help="Context window of one request; 0 is as the first model.")
    ] = 0,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model and serve it. Ctrl-C gives it up."""
    context = make_context()
    request = LoadModelRequest(file=file, id=model_id, slots=slots, kv_cells=kv_cells, context_tokens=context_tokens)
    loaded = Model()
    columns = (TextColumn("loading {task.description}"), BarColumn(), TaskProgressColumn())
    with (
        context.client(edge, key, ADMIN) as client,
        client.telling(ENGINE_MENDS),
        Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress,
    ):
        task = progress.add_task(escape(file), total=1.0)
        for event in client.engine.LoadModel(request):
            if event.HasField("model"):
                loaded = event.model
            else:
                progress.update(task, completed=event.progress)
    if as_json:
        print_json(loaded)
    else:
        context.out.print(
            f"Serving [bold]{escape(loaded.id)}[/]: {loaded.slots} slots, {loaded.context_tokens} tokens."
        )


def unload(model: ModelArgument, edge: EdgeOption = None, key: KeyOption = None) -> None:
    """Take a model out of service; its running requests may end first."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        client.engine.UnloadModel(UnloadModelRequest(id=model), timeout=UNLOAD_TIMEOUT_S)
    context.out.print(f"Unloaded {escape(model)}.")


def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The alias.")],
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="The id of the model it stands for.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take the alias away.")] = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Make a name stand for a model, or take it away."""
    context = make_context()
    if delete is (model is not None):
        raise CliError("Say what the alias is to become.", "Give the id of a model, or --delete.")
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        if model is None:
            client.engine.DeleteModelAlias(DeleteModelAliasRequest(alias=name), timeout=CALL_TIMEOUT_S)
        else:
            client.engine.SetModelAlias(SetModelAliasRequest(alias=name, model=model), timeout=CALL_TIMEOUT_S)
    context.out.print(
        f"{escape(name)} is no alias any more." if model is None else f"{escape(name)} stands for {escape(model)}."
    )


def purge(
    tenant: TenantArgument,
    yes: YesOption = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a tenant's requests and drop all that was computed for it. Its usage records stay."""
    context = make_context()
    confirm(f"End the running requests of {tenant} and drop its caches?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        purged = client.engine.PurgeTenant(PurgeTenantRequest(tenant=tenant), timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(purged)
    else:
        context.out.print(
            f"Ended {purged.ended_requests} requests; freed {purged.freed_cells} KV cells and "
            f"{purged.freed_host_bytes / 1e6:,.1f} MB of host memory."
        )


def usage(
    tenant: Annotated[str, typer.Option("--tenant", help="Only this tenant's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")] = 100,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what requests cost, the latest first. The model process keeps a bounded number of them, until it ends."""
    context = make_context()
    request = ListUsageRecordsRequest(tenant=tenant)
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        records = list_items(client.engine.ListUsageRecords, request, lambda page: page.records, limit)
    if as_json:
        print_json(records)
        return
    columns = ("started", "tenant", "model", "adapter", "input", "cached", "output", "ended by", "call")
    table = list_table(columns, right=("input", "cached", "output"))
    for record in records:
        table.add_row(
            short_time(record.start_time),
            record.tenant,
            record.model,
            engine_adapter.short_digest(record.adapter),
            str(record.usage.input_tokens),
            str(record.usage.cached_input_tokens),
            str(record.usage.output_tokens),
            ending(record),
            record.token_id,
        )
    context.out.print(table)


def ending(record: UsageRecord) -> str:
    """Says why a request ended."""
    if not record.HasField("end_time"):
        return "runs"
    return FinishReason.Name(record.finish_reason).removeprefix("FINISH_REASON_").lower()
