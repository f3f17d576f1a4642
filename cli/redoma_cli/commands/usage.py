"""`redoma usage`: what was used, in a table, a chart or a file."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Group
from rich.markup import escape
from typer.core import TyperGroup

from redoma.tenant.v1.usage_pb2 import (
    Dimension,
    ExportFormat,
    ExportUsageRequest,
    Granularity,
    QueryUsageRequest,
    UsageRow,
    UsageSelection,
)
from redoma_cli.client import ADMIN, EdgeClient
from redoma_cli.commands.downloads import shown
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json
from redoma_cli.commands.pages import pages
from redoma_cli.commands.usage_books import OwnOrAllArgument, ledger, verify
from redoma_cli.commands.usage_table import chart_of, table_of
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError
from redoma_cli.saved_file import saved_file

DIMENSIONS = {
    "tenant": Dimension.DIMENSION_TENANT,
    "key": Dimension.DIMENSION_API_KEY,
    "user": Dimension.DIMENSION_USER,
    "model": Dimension.DIMENSION_MODEL,
    "adapter": Dimension.DIMENSION_ADAPTER,
}
GRANULARITIES = {
    "hour": Granularity.GRANULARITY_HOUR,
    "day": Granularity.GRANULARITY_DAY,
    "month": Granularity.GRANULARITY_MONTH,
    "total": Granularity.GRANULARITY_TOTAL,
}
FORMATS = {"csv": ExportFormat.EXPORT_FORMAT_CSV, "jsonl": ExportFormat.EXPORT_FORMAT_JSON_LINES}
EXPORT_TIMEOUT_S = 600.0
ROWS_PER_PAGE = 10_000
DEFAULT_COMMAND = "show"

T = TypeVar("T")


class ShowByDefault(TyperGroup):
    """Takes `redoma usage acme` for `redoma usage show acme`."""

    # The type of a context is private to the library.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where none is named."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        cls=ShowByDefault,
        help="See what was used, by time, key, user, model and adapter.",
        epilog="Examples:  redoma usage  ·  redoma usage acme --by key,model --since 7d  ·  redoma usage verify acme",
        rich_markup_mode="rich",
    )
    group.command(
        DEFAULT_COMMAND,
        epilog="Examples:  redoma usage acme --by key,model --granularity day --since 30d"
        "  ·  redoma usage --by tenant --granularity month --export usage.csv",
    )(show)
    group.command("ledger", epilog="Example:  redoma usage ledger acme --limit 10")(ledger)
    group.command("verify", epilog="Example:  redoma usage verify acme")(verify)
    return group


def show(
    tenant: OwnOrAllArgument = "",
    by: Annotated[
        str, typer.Option("--by", help="What to sum up by, with commas: tenant, key, user, model, adapter.")
    ] = "",
    granularity: Annotated[str, typer.Option("--granularity", "-g", help="hour, day, month or total.")] = "day",
    since: Annotated[str, typer.Option("--since", help="From so long ago: 12h, 30d or 8w.")] = "30d",
    output: Annotated[Path | None, typer.Option("--export", "-o", help="Write all of it to this file instead.")] = None,
    form: Annotated[str, typer.Option("--format", help="The file's form: csv or jsonl.")] = "csv",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show requests, tokens and cost in a table and a chart. Times are UTC."""
    context = make_context()
    dimensions = _dimensions(by)
    selection = UsageSelection(
        parent=f"tenants/{tenant or '-'}",
        granularity=_one_of("--granularity", granularity, GRANULARITIES),
        dimensions=[DIMENSIONS[name] for name in dimensions],
    )
    selection.start_time.FromDatetime(datetime.now(UTC) - parse_duration(since))
    with context.client(edge, key, ADMIN) as client, client.telling():
        if output is not None:
            request = ExportUsageRequest(selection=selection, format=_one_of("--format", form, FORMATS))
            _export(context, client, request, output)
            return
        rows, currency = _rows(client, selection)
    if as_json:
        print_json(rows)
    elif not rows:
        context.out.print(f"Nothing was used in the last {since}.")
    else:
        context.out.print(Group(table_of(rows, dimensions, granularity, currency), "", *chart_of(rows, granularity)))


def _dimensions(by: str) -> list[str]:
    names = [name.strip() for name in by.split(",") if name.strip()]
    for name in names:
        _one_of("--by", name, DIMENSIONS)
    return list(dict.fromkeys(names))


def _one_of(option: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise CliError(f"{option} {name} is not known.", f"Use one of {', '.join(known)}.")
    return known[name]


def _rows(client: EdgeClient, selection: UsageSelection) -> tuple[list[UsageRow], str]:
    rows: list[UsageRow] = []
    currency = ""
    for page in pages(client.usage.QueryUsage, QueryUsageRequest(selection=selection, page_size=ROWS_PER_PAGE)):
        rows += page.rows
        currency = page.currency
    return rows, currency


def _export(context: CommandContext, client: EdgeClient, request: ExportUsageRequest, output: Path) -> None:
    lines = 0
    with saved_file(output) as file:
        pieces = client.usage.ExportUsage(request, timeout=EXPORT_TIMEOUT_S)
        for data in shown(context, f"writing {output.name}", (piece.data for piece in pieces)):
            file.write(data)
            lines += data.count(b"\n")
    rows = lines - (request.format == ExportFormat.EXPORT_FORMAT_CSV)
    context.err.print(f"Wrote {rows} rows to {escape(str(output))}.")
