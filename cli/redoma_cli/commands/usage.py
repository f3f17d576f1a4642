"""`redoma usage`: what was used, in a table, a chart or a file, and whether the books agree."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from rich.console import Group
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.table import Table
from typer.core import TyperGroup

from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest
from redoma.tenant.v1.usage_pb2 import (
    Dimension,
    ExportFormat,
    ExportUsageRequest,
    Granularity,
    LedgerTransaction,
    ListLedgerTransactionsRequest,
    QueryUsageRequest,
    ReconcileUsageRequest,
    ReconcileUsageResponse,
    UsageRow,
    UsageSelection,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json, short_name, short_time
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import FAILED, CliError, error_info
from redoma_cli.saved_file import saved_file

TenantArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="The tenant's id; left out, the key's own tenant, or all tenants with the admin key.",
        show_default=False,
    ),
]
DIMENSIONS = {
    "tenant": Dimension.DIMENSION_TENANT,
    "key": Dimension.DIMENSION_API_KEY,
    "user": Dimension.DIMENSION_USER,
    "model": Dimension.DIMENSION_MODEL,
    "adapter": Dimension.DIMENSION_ADAPTER,
}
FIELDS = {"tenant": "tenant", "key": "api_key", "user": "user", "model": "model", "adapter": "adapter"}
GRANULARITIES = {
    "hour": Granularity.GRANULARITY_HOUR,
    "day": Granularity.GRANULARITY_DAY,
    "month": Granularity.GRANULARITY_MONTH,
    "total": Granularity.GRANULARITY_TOTAL,
}
TIME_FORMS = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
FORMATS = {"csv": ExportFormat.EXPORT_FORMAT_CSV, "jsonl": ExportFormat.EXPORT_FORMAT_JSON_LINES}
EXPORT_TIMEOUT_S = 600.0
ROWS_PER_PAGE = 10_000
MOST_PER_PAGE = 1_000
MAX_BARS = 31
BAR_CHARACTERS = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"
NANOS = 1_000_000_000
DEFAULT_COMMAND = "show"
AMOUNTS = ("requests", "input", "cached", "output", "reasoning", "cost")
NUMBERS = frozenset(AMOUNTS)
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
NOT_FOR_THIS_KEY = ("SCOPE_MISSING", "METHOD_DENIED")

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
    tenant: TenantArgument = "",
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


def ledger(
    tenant: TenantArgument = "",
    call: Annotated[str, typer.Option("--call", help="Only the call with this id.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was booked of each call, the latest first."""
    context = make_context()
    request = ListLedgerTransactionsRequest(parent=f"tenants/{tenant or '-'}", token_id=call)
    found: list[LedgerTransaction] = []
    with context.client(edge, key, ADMIN) as client, client.telling():
        while len(found) < limit:
            request.page_size = min(MOST_PER_PAGE, limit - len(found))
            page = client.usage.ListLedgerTransactions(request, timeout=CALL_TIMEOUT_S)
            found += page.transactions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        print_json(found)
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("booked", "what", "call", "who", "model", "input", "cached", "output", "reasoning", "cost"):
        table.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for transaction in found:
        table.add_row(*(escape(cell) for cell in _transaction_cells(transaction)))
    context.out.print(table)


def verify(
    tenant: TenantArgument = "", edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Add the ledger up anew and compare it with the sums. Exits with 1 if they differ."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        found = {
            short_name(parent): client.usage.ReconcileUsage(
                ReconcileUsageRequest(parent=parent), timeout=EXPORT_TIMEOUT_S
            )
            for parent in _parents(client, tenant)
        }
    if as_json:
        print_json(list(found.values()))
    else:
        context.out.print(_comparison(found))
    if not all(one.balanced for one in found.values()):
        if not as_json:
            context.err.print("[bold red]The books don't agree.[/] Keep the database as it is and look for who wrote.")
        raise typer.Exit(FAILED)


def table_of(rows: list[UsageRow], dimensions: list[str], granularity: str, currency: str) -> Table:
    """Draws the rows, and their sum below."""
    table = Table(box=None, header_style="dim", pad_edge=False, show_footer=len(rows) > 1, footer_style="bold")
    times = [] if granularity == "total" else [granularity]
    shown = dimensions if "tenant" in dimensions or not rows[0].tenant else ["tenant", *dimensions]
    for index, column in enumerate([*times, *shown]):
        table.add_column(column, "total" if index == 0 else "", overflow="fold")
    for column, amount in zip(AMOUNTS, _amounts(_sum(rows)), strict=True):
        table.add_column(column, _shown(column, amount, currency), justify="right")
    for row in rows:
        names = [short_name(getattr(row, FIELDS[name])) or "–" for name in shown]
        amounts = [_shown(column, amount, currency) for column, amount in zip(AMOUNTS, _amounts(row), strict=True)]
        table.add_row(*(escape(cell) for cell in (*_time_cells(row, granularity), *names, *amounts)))
    return table


def chart_of(rows: list[UsageRow], granularity: str) -> list[str]:
    """Draws a bar of all tokens for each time, at most MAX_BARS of the last."""
    if granularity == "total":
        return []
    by_time: dict[str, int] = {}
    for row in rows:
        time = _time_cells(row, granularity)[0]
        by_time[time] = by_time.get(time, 0) + row.usage.input_tokens + row.usage.output_tokens
    shown = list(by_time.items())[-MAX_BARS:]
    most = max(tokens for _, tokens in shown)
    return [f"{time}  [cyan]{bar(tokens, most):{BAR_CHARACTERS}}[/] {tokens:,} tokens" for time, tokens in shown]


def bar(part: int, most: int) -> str:
    """Draws a bar in eighths of characters; anything above nothing shows."""
    eighths = max(1 if part > 0 else 0, round(8 * BAR_CHARACTERS * part / most)) if most > 0 else 0
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


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
    request = QueryUsageRequest(selection=selection, page_size=ROWS_PER_PAGE)
    while True:
        page = client.usage.QueryUsage(request, timeout=CALL_TIMEOUT_S)
        rows += page.rows
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return rows, page.currency


def _export(context: CommandContext, client: EdgeClient, request: ExportUsageRequest, output: Path) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    lines = 0
    with (
        saved_file(output) as file,
        Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress,
    ):
        task = progress.add_task(f"writing {escape(output.name)}", total=None)
        for piece in client.usage.ExportUsage(request, timeout=EXPORT_TIMEOUT_S):
            file.write(piece.data)
            lines += piece.data.count(b"\n")
            progress.advance(task, len(piece.data))
    rows = lines - (request.format == ExportFormat.EXPORT_FORMAT_CSV)
    context.err.print(f"Wrote {rows} rows to {escape(str(output))}.")


def _parents(client: EdgeClient, tenant: str) -> list[str]:
    """Gives the tenant named, else the key's own; with the admin key, all."""
    if tenant:
        return [f"tenants/{tenant}"]
    request, names = ListTenantsRequest(page_size=MOST_PER_PAGE), []
    try:
        while True:
            page = client.tenants.ListTenants(request, timeout=CALL_TIMEOUT_S)
            names += [one.name for one in page.tenants]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return names
    except grpc.RpcError as error:
        info = error_info(error)
        if info is not None and info.reason in NOT_FOR_THIS_KEY:
            return ["tenants/-"]
        raise


def _comparison(found: dict[str, ReconcileUsageResponse]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("tenant", "books", *AMOUNTS, "open calls"):
        table.add_column(column, justify="right" if column in NUMBERS or column == "open calls" else "left")
    for tenant, one in found.items():
        state = "[green]agree[/]" if one.balanced else "[bold red]differ[/]"
        name = short_name(one.ledger.tenant) or tenant
        table.add_row(escape(name), state, *_plain(one.ledger), str(one.open_calls))
        if not one.balanced:
            table.add_row("", "in the sums", *_plain(one.sums), "")
    return table


def _plain(row: UsageRow) -> list[str]:
    return [_shown(column, amount, "") for column, amount in zip(AMOUNTS, _amounts(row), strict=True)]


def _transaction_cells(transaction: LedgerTransaction) -> list[str]:
    tenant = transaction.name.rpartition("/ledgerTransactions/")[0]
    own = {entry.unit: entry.amount for entry in transaction.entries if entry.account == f"{tenant}/usage"}
    return [
        short_time(transaction.book_time),
        LedgerTransaction.Kind.Name(transaction.kind).removeprefix("KIND_").lower(),
        transaction.token_id,
        short_name(transaction.principal),
        transaction.model,
        *(f"{own.get(unit, 0):,}" for unit in UNITS),
        _shown("cost", own.get("cost_nanos", 0), ""),
    ]


def _time_cells(row: UsageRow, granularity: str) -> list[str]:
    form = TIME_FORMS.get(granularity)
    return [] if form is None else [row.start_time.ToDatetime(tzinfo=UTC).strftime(form)]


def _sum(rows: list[UsageRow]) -> UsageRow:
    total = UsageRow(requests=sum(row.requests for row in rows), cost_nanos=sum(row.cost_nanos for row in rows))
    for unit in UNITS:
        setattr(total.usage, unit, sum(getattr(row.usage, unit) for row in rows))
    return total


def _amounts(row: UsageRow) -> list[int]:
    return [row.requests, *(getattr(row.usage, unit) for unit in UNITS), row.cost_nanos]


def _shown(column: str, amount: int, currency: str) -> str:
    return f"{amount / NANOS:,.4f} {currency}".rstrip() if column == "cost" else f"{amount:,}"
