"""`redoma engine adapter`: the LoRA adapters that the model process has loaded."""

from typing import Annotated

import typer
from rich.markup import escape

from redoma.model.v1.engine_pb2 import Adapter, LoadAdapterRequest, UnloadAdapterRequest
from redoma_cli.client import ADMIN
from redoma_cli.commands.engine_top import get_state
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json
from redoma_cli.context import make_context
from redoma_cli.errors import ENGINE_MENDS

BaseModelOption = Annotated[str, typer.Option("--model", help="The id of the base model; the default model's if none.")]
# Digests of large files are computed, and running requests may end first.
LONG_TIMEOUT_S = 600.0
SHOWN_DIGITS = 12


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="List, load and unload LoRA adapters.",
        epilog="Example:  redoma engine adapter load acme/contracts.json",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("list", epilog="Example:  redoma engine adapter list")(list_all)
    group.command("load", epilog="Example:  redoma engine adapter load acme/contracts.json --scale 0.8")(load)
    group.command("unload", epilog="Example:  redoma engine adapter unload sha256:9f86d081…")(unload)
    return group


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the adapters that are loaded."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        state = get_state(client)
    if as_json:
        print_json([adapter for model in state.models for adapter in model.adapters])
        return
    columns = ("adapter", "tenant", "model", "scale", "requests", "digest")
    table = list_table(columns, right=("scale", "requests"))
    for model in state.models:
        for adapter in model.adapters:
            table.add_row(
                adapter.name,
                adapter.tenant,
                model.model.id,
                f"{adapter.scale:g}",
                str(adapter.requests),
                adapter.digest,
            )
    context.out.print(table)


def load(
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="The manifest's path in the service's adapter folder.")
    ],
    model: BaseModelOption = "",
    scale: Annotated[
        float | None, typer.Option(help="What its weights are multiplied with; as the manifest says by default.")
    ] = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load an adapter. Its manifest says whose it is and for which base model."""
    context = make_context()
    request = LoadAdapterRequest(manifest=manifest, model=model)
    if scale is not None:
        request.scale = scale
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        adapter: Adapter = client.engine.LoadAdapter(request, timeout=LONG_TIMEOUT_S).adapter
    if as_json:
        print_json(adapter)
    else:
        context.out.print(f"Loaded {escape(adapter.name)} of tenant {adapter.tenant}: {adapter.digest}")


def unload(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="As `redoma engine adapter list` shows it.")],
    model: BaseModelOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Take an adapter out of service; its running requests may end first."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(ENGINE_MENDS):
        client.engine.UnloadAdapter(UnloadAdapterRequest(digest=digest, model=model), timeout=LONG_TIMEOUT_S)
    context.out.print(f"Unloaded {escape(digest)}.")


def short_digest(digest: str) -> str:
    """Gives the first digits of a digest."""
    return digest.removeprefix("sha256:")[:SHOWN_DIGITS]
