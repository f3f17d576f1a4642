"""`redoma usage ledger` and `redoma usage verify`: what was booked, and whether the books agree."""

from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1.usage_pb2 import (
    LedgerTransaction,
    ListLedgerTransactionsRequest,
    ReconcileUsageRequest,
    ReconcileUsageResponse,
)
from redoma_cli.client import ADMIN, EdgeClient
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.commands.tenant import list_tenants
from redoma_cli.commands.usage_table import AMOUNTS, UNITS, amount_texts, cost_text
from redoma_cli.context import make_context
from redoma_cli.errors import FAILED, error_info

OwnOrAllArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="The tenant's id; left out, the key's own tenant, or all tenants with the admin key.",
        show_default=False,
    ),
]
RECONCILE_TIMEOUT_S = 600.0
NOT_FOR_THIS_KEY = ("SCOPE_MISSING", "METHOD_DENIED")


def ledger(
    tenant: OwnOrAllArgument = "",
    call: Annotated[str, typer.Option("--call", help="Only the call with this id.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was booked of each call, the latest first."""
    context = make_context()
    request = ListLedgerTransactionsRequest(parent=f"tenants/{tenant or '-'}", token_id=call)
    with context.client(edge, key, ADMIN) as client, client.telling():
        found = list_items(client.usage.ListLedgerTransactions, request, lambda page: page.transactions, limit)
    if as_json:
        print_json(found)
        return
    columns = ("booked", "what", "call", "who", "model", "input", "cached", "output", "reasoning", "cost")
    table = list_table(columns, right=AMOUNTS)
    for transaction in found:
        table.add_row(*(escape(cell) for cell in _transaction_cells(transaction)))
    context.out.print(table)


def verify(
    tenant: OwnOrAllArgument = "", edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Add the ledger up anew and compare it with the sums. Exits with 1 if they differ."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        found = {
            short_name(parent): client.usage.ReconcileUsage(
                ReconcileUsageRequest(parent=parent), timeout=RECONCILE_TIMEOUT_S
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


def _parents(client: EdgeClient, tenant: str) -> list[str]:
    """Gives the tenant named, else the key's own; with the admin key, all."""
    if tenant:
        return [f"tenants/{tenant}"]
    try:
        return [one.name for one in list_tenants(client)]
    except grpc.RpcError as error:
        info = error_info(error)
        if info is not None and info.reason in NOT_FOR_THIS_KEY:
            return ["tenants/-"]
        raise


def _comparison(found: dict[str, ReconcileUsageResponse]) -> Table:
    table = list_table(("tenant", "books", *AMOUNTS, "open calls"), right=(*AMOUNTS, "open calls"))
    for tenant, one in found.items():
        state = "[green]agree[/]" if one.balanced else "[bold red]differ[/]"
        name = short_name(one.ledger.tenant) or tenant
        table.add_row(escape(name), state, *amount_texts(one.ledger), str(one.open_calls))
        if not one.balanced:
            table.add_row("", "in the sums", *amount_texts(one.sums), "")
    return table


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
        cost_text(own.get("cost_nanos", 0)),
    ]
