"""`redoma privacy`: give people their data, and erase it."""

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1.privacy_pb2 import (
    EraseDataRequest,
    Erasure,
    ExportDataRequest,
    GetErasureRequest,
    ListErasuresRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.downloads import shown
from redoma_cli.commands.names import child_id, child_resource
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption, TenantArgument, YesOption
from redoma_cli.commands.output import list_table, print_json, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError
from redoma_cli.saved_file import saved_file

PrincipalOption = Annotated[
    str,
    typer.Option(
        "--principal", help="Only what is this key's or user's: apiKeys/KEY, users/USER, or the whole resource name."
    ),
]
EXPORT_TIMEOUT_S = 600.0
WAIT_TIMEOUT_S = 300.0
POLL_S = 0.5


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Export all that is held of a tenant or a person, and erase it with a signed certificate.",
        epilog="Example:  redoma privacy export acme --output acme.zip",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("export", epilog="Example:  redoma privacy export acme --principal users/0a1b --output jo.zip")(
        export
    )
    group.command("erase", epilog="Example:  redoma privacy erase acme --principal users/0a1b --purpose 'ticket 4711'")(
        erase
    )
    group.command("list", epilog="Example:  redoma privacy list acme")(list_all)
    group.command("certificate", epilog="Example:  redoma privacy certificate acme/3f0c > erased.jws")(certificate)
    return group


def export(
    tenant: TenantArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ZIP file to write; `-` is standard output.")],
    principal: PrincipalOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Write all that is held to a ZIP archive, whose README.md says what is what."""
    context = make_context()
    request = ExportDataRequest(parent=f"tenants/{tenant}", principal=principal_resource(tenant, principal))
    to_stdout = str(output) == "-"
    target = nullcontext(sys.stdout.buffer) if to_stdout else saved_file(output)
    with context.client(edge, key, ADMIN) as client, client.telling(), target as file:
        pieces = client.privacy.ExportData(request, timeout=EXPORT_TIMEOUT_S)
        file.writelines(shown(context, f"exporting {tenant}", (piece.data for piece in pieces)))
        file.flush()
    if not to_stdout:
        context.err.print(f"Wrote {escape(str(output))}.")


def erase(
    tenant: TenantArgument,
    principal: PrincipalOption = "",
    purpose: Annotated[str, typer.Option("--purpose", help="Why; it stands in the certificate.")] = "",
    yes: YesOption = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every service has acknowledged.")] = True,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase the conversations of a tenant or a person from every store and cache. Ledger and audit trail stay."""
    context = make_context()
    name = principal_resource(tenant, principal)
    confirm(f"Erase the conversations of {name or f'tenants/{tenant}'} for good, and end its running calls?", yes)
    request = EraseDataRequest(parent=f"tenants/{tenant}", principal=name, purpose=purpose)
    with context.client(edge, key, ADMIN) as client, client.telling():
        erasure = client.privacy.EraseData(request, timeout=CALL_TIMEOUT_S).erasure
        if wait:
            erasure = _await_complete(context, client, erasure)
    if as_json:
        print_json(erasure)
    else:
        context.out.print(_steps(erasure))
    if erasure.state == Erasure.STATE_COMPLETE:
        context.err.print(f"Erased. The certificate: redoma privacy certificate {child_id(erasure.name)}")
    else:
        context.err.print(f"It goes on in the background; see: redoma privacy list {escape(tenant)}")


def list_all(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List a tenant's erasures, the latest first."""
    context = make_context()
    request = ListErasuresRequest(parent=f"tenants/{tenant}")
    with context.client(edge, key, ADMIN) as client, client.telling():
        erasures = list_items(client.privacy.ListErasures, request, lambda page: page.erasures)
    if as_json:
        print_json(erasures)
        return
    table = list_table(("erasure", "of", "asked", "state", "complete", "waits for"))
    for erasure in erasures:
        table.add_row(
            child_id(erasure.name),
            escape(erasure.principal or "the whole tenant"),
            short_time(erasure.create_time),
            Erasure.State.Name(erasure.state).removeprefix("STATE_").lower(),
            short_time(erasure.complete_time),
            _awaited(erasure),
        )
    context.out.print(table)


def certificate(
    erasure: Annotated[
        str, typer.Argument(metavar="TENANT/ERASURE", help="The first column of `redoma privacy list`, or its name.")
    ],
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Print the signed certificate of a complete erasure, a JWS."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = GetErasureRequest(name=erasure_resource(erasure))
        found = client.privacy.GetErasure(request, timeout=CALL_TIMEOUT_S).erasure
    if not found.certificate:
        raise CliError(f"The erasure is not complete; it waits for {_awaited(found)}.", "Try again in a moment.")
    print(found.certificate, flush=True)


def principal_resource(tenant: str, text: str) -> str:
    """Gives the resource name of what a person names as apiKeys/KEY or users/USER, or by the resource name itself."""
    return text if not text or text.startswith("tenants/") else f"tenants/{tenant}/{text}"


def erasure_resource(text: str) -> str:
    """Gives the resource name of what a person names as tenant/erasure, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    return child_resource(text, "erasures", "an erasure", "redoma privacy list TENANT")


def _awaited(erasure: Erasure) -> str:
    return ", ".join(step.place for step in erasure.steps if not step.HasField("acknowledge_time"))


def _await_complete(context: CommandContext, client: EdgeClient, erasure: Erasure) -> Erasure:
    end = time.monotonic() + WAIT_TIMEOUT_S
    with context.err.status("Waiting until every service has acknowledged"):
        while erasure.state != Erasure.STATE_COMPLETE and time.monotonic() < end:
            time.sleep(POLL_S)
            request = GetErasureRequest(name=erasure.name)
            erasure = client.privacy.GetErasure(request, timeout=CALL_TIMEOUT_S).erasure
    return erasure


def _steps(erasure: Erasure) -> Table:
    table = list_table(("place", "acknowledged", "erased"))
    for step in erasure.steps:
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(step.erased.items()) if count)
        table.add_row(step.place, short_time(step.acknowledge_time), escape(step.problem or counts))
    return table
