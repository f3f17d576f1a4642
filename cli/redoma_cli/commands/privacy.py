"""`redoma privacy`: give people their data, and erase it."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.table import Table

from redoma.tenant.v1.privacy_pb2 import (
    EraseDataRequest,
    Erasure,
    ExportDataRequest,
    GetErasureRequest,
    ListErasuresRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json, short_time
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, such as acme.")]
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
    if not to_stdout and output.exists():
        raise CliError(f"{output} exists already.", "Choose another name, or remove it first.")
    partial = output.with_name(output.name + ".part")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with (
        context.client(edge, key, ADMIN) as client,
        client.telling(),
        Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress,
    ):
        task = progress.add_task(f"exporting {escape(tenant)}", total=None)
        file = sys.stdout.buffer if to_stdout else partial.open("xb")
        try:
            for response in client.privacy.ExportData(request, timeout=EXPORT_TIMEOUT_S):
                file.write(response.data)
                progress.advance(task, len(response.data))
            file.flush()
        except BaseException:
            if not to_stdout:
                partial.unlink(missing_ok=True)
            raise
        finally:
            if not to_stdout:
                file.close()
    if not to_stdout:
        partial.rename(output)
        context.err.print(f"Wrote {escape(str(output))}.")


def erase(
    tenant: TenantArgument,
    principal: PrincipalOption = "",
    purpose: Annotated[str, typer.Option("--purpose", help="Why; it stands in the certificate.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every service has acknowledged.")] = True,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase the conversations of a tenant or a person from every store and cache. Ledger and audit trail stay."""
    context = make_context()
    name = principal_resource(tenant, principal)
    _confirm(name or f"tenants/{tenant}", yes)
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
        context.err.print(f"Erased. The certificate: redoma privacy certificate {short_id(erasure)}")
    else:
        context.err.print(f"It goes on in the background; see: redoma privacy list {escape(tenant)}")


def list_all(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List a tenant's erasures, the latest first."""
    context = make_context()
    erasures: list[Erasure] = []
    with context.client(edge, key, ADMIN) as client, client.telling():
        page_token = ""
        while True:
            request = ListErasuresRequest(parent=f"tenants/{tenant}", page_size=1000, page_token=page_token)
            page = client.privacy.ListErasures(request, timeout=CALL_TIMEOUT_S)
            erasures += page.erasures
            page_token = page.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(erasures)
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("erasure", "of", "asked", "state", "complete", "waits for"):
        table.add_column(column, overflow="fold")
    for erasure in erasures:
        table.add_row(
            short_id(erasure),
            escape(erasure.principal or "the whole tenant"),
            short_time(erasure.create_time),
            Erasure.State.Name(erasure.state).removeprefix("STATE_").lower(),
            short_time(erasure.complete_time),
            ", ".join(step.place for step in erasure.steps if not step.HasField("acknowledge_time")),
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
        waits = ", ".join(step.place for step in found.steps if not step.HasField("acknowledge_time"))
        raise CliError(f"The erasure is not complete; it waits for {waits}.", "Try again in a moment.")
    print(found.certificate, flush=True)


def principal_resource(tenant: str, text: str) -> str:
    """Gives the resource name of what a person names as apiKeys/KEY or users/USER, or by the resource name itself."""
    return text if not text or text.startswith("tenants/") else f"tenants/{tenant}/{text}"


def short_id(erasure: Erasure) -> str:
    """Names an erasure for people: tenant/erasure."""
    _, tenant, _, last = erasure.name.split("/")
    return f"{tenant}/{last}"


def erasure_resource(text: str) -> str:
    """Gives the resource name of what a person names as tenant/erasure, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    parts = text.split("/")
    if len(parts) == 2 and all(parts):
        return f"tenants/{parts[0]}/erasures/{parts[1]}"
    if len(parts) == 4 and parts[0] == "tenants" and parts[2] == "erasures":
        return text
    raise CliError(f"{text} is not an erasure's name.", "Write it as TENANT/ERASURE; `redoma privacy list` shows them.")


def _confirm(name: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"This erases the conversations of {name} for good.", "Say so with --yes.")
    typer.confirm(f"Erase the conversations of {name} for good, and end its running calls?", abort=True, err=True)


def _await_complete(context: CommandContext, client: EdgeClient, erasure: Erasure) -> Erasure:
    end = time.monotonic() + WAIT_TIMEOUT_S
    with context.err.status("Waiting until every service has acknowledged"):
        while erasure.state != Erasure.STATE_COMPLETE and time.monotonic() < end:
            time.sleep(POLL_S)
            request = GetErasureRequest(name=erasure.name)
            erasure = client.privacy.GetErasure(request, timeout=CALL_TIMEOUT_S).erasure
    return erasure


def _steps(erasure: Erasure) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("place", "acknowledged", "erased"):
        table.add_column(column, overflow="fold")
    for step in erasure.steps:
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(step.erased.items()) if count)
        table.add_row(step.place, short_time(step.acknowledge_time), escape(step.problem or counts))
    return table
