"""`redoma audit`: who did what, and the proof that nobody changed the record of it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from redoma.tenant.v1.audit_pb2 import (
    AuditEntry,
    AuditHead,
    ExportAuditEntriesRequest,
    ExportAuditEntriesResponse,
    ListAuditEntriesRequest,
)
from redoma.tenant.v1.usage_pb2 import ExportFormat
from redoma_cli.audit_chain import ChainBroken, ExportedChain, Head, check_signature, read_head, write_head
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json
from redoma_cli.commands.pages import list_items
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import FAILED, CliError
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.saved_file import saved_file

ChainArgument = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="The tenant's id, or `platform` for the platform's own chain; left out, the chain of the key's owner.",
        show_default=False,
    ),
]
EXPORT_TIMEOUT_S = 600.0
OWN = "tenants/-"
PLATFORM = "platform"
HEAD_SUFFIX = ".head.json"
READ_BYTES = 1 << 20
# The first entry's name begins with its chain's.
NAME = re.compile(rb"(tenants/[a-z0-9-]+|platform)/auditEntries/")
FORMATS = {"jsonl": ExportFormat.EXPORT_FORMAT_JSON_LINES, "csv": ExportFormat.EXPORT_FORMAT_CSV}


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="See who did what, and verify that nobody changed the record of it.",
        epilog="Examples:  redoma audit list acme --since 7d  ·  redoma audit verify acme --head acme.head.json",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("list", epilog="Example:  redoma audit list acme --action ApiKey --since 30d")(list_entries)
    group.command("export", epilog="Example:  redoma audit export acme --output acme.jsonl")(export)
    group.command(
        "verify",
        epilog="Examples:  redoma audit verify acme --head acme.head.json  ·  redoma audit verify --file acme.jsonl",
    )(verify)
    return group


def list_entries(
    chain: ChainArgument = "",
    since: Annotated[str | None, typer.Option("--since", help="Only the last 90m, 12h, 30d or 8w.")] = None,
    actor: Annotated[str, typer.Option("--actor", help="Only of this key or user, by resource name.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only methods whose name holds this text.")] = "",
    result: Annotated[str, typer.Option("--result", help="Only with this result, such as OK or SCOPE_MISSING.")] = "",
    resource: Annotated[str, typer.Option("--resource", help="Only resources that begin with this.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was done, the latest first."""
    context = make_context()
    request = ListAuditEntriesRequest(
        parent=parent_of(chain),
        actor=actor,
        action=action,
        result=result,
        resource_prefix=resource,
    )
    if since is not None:
        request.start_time.FromDatetime(datetime.now(UTC) - parse_duration(since))
    with context.client(edge, key, ADMIN) as client, client.telling():
        entries = list_items(client.audit.ListAuditEntries, request, lambda page: page.audit_entries, limit)
    if as_json:
        print_json(entries)
        return
    columns = ("#", "time", "who", "what", "to", "result", "times", "from", "more")
    table = list_table(columns, right=("#", "times"))
    for entry in entries:
        table.add_row(*(escape(text) for text in _cells(entry)))
    context.out.print(table)


def export(
    chain: ChainArgument = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("audit.jsonl"),
    form: Annotated[str, typer.Option("--format", help="jsonl, which can be verified, or csv.")] = "jsonl",
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Write a chain to a file, the earliest first, and its signed head next to it."""
    context = make_context()
    if form not in FORMATS:
        raise CliError(f"{form} is not a form of file.", "Use --format jsonl or --format csv.")
    head_file = output.with_name(output.name + HEAD_SUFFIX)
    request = ExportAuditEntriesRequest(parent=parent_of(chain), format=FORMATS[form])
    with context.client(edge, key, ADMIN) as client, client.telling(), saved_file(output) as file:
        head, name = AuditHead(), ""
        for piece in _pieces(context, client, request):
            file.write(piece.data)
            name = name or _chain_in(piece.data)
            if piece.HasField("head"):
                head = piece.head
    write_head(head_file, Head(name, head.sequence, head.hash, head.signature))
    context.err.print(f"Wrote {head.sequence} entries to {escape(str(output))}, and {escape(head_file.name)}.")


def verify(
    chain: ChainArgument = "",
    head_file: Annotated[
        Path | None,
        typer.Option(
            "--head",
            help="Where the head is noted: what was noted last must still be part of the chain. Keep it apart.",
        ),
    ] = None,
    jwks: Annotated[
        Path | None,
        typer.Option(
            "--jwks", help="The services' jwks_file, to check who signed the head; the local site's by default."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Verify this export in JSON Lines instead, without the service.")
    ] = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute a chain from its first entry to its head. Exits with 1 if anything was changed, added or removed."""
    context = make_context()
    known = read_head(head_file) if head_file is not None else None
    jwks = jwks or (_local_keys(context) if edge is None else None)
    follower = ExportedChain(known)
    try:
        if file is not None:
            head = _follow_file(file, follower)
        else:
            with context.client(edge, key, ADMIN) as client, client.telling():
                head = _follow_export(context, client, parent_of(chain), follower)
        if known is not None and follower.chain not in ("", known.chain):
            raise CliError(f"{head_file} is the head of {known.chain}, not of {follower.chain}.", "Name another file.")
        follower.end(head)
        is_signed = _is_signed(head, jwks)
    except ChainBroken as broken:
        _tell_broken(context, broken, as_json)
        raise typer.Exit(FAILED) from None
    if head_file is not None and head is not None:
        write_head(head_file, head)
    _tell_whole(context, follower, is_signed, as_json)


def parent_of(chain: str) -> str:
    """Gives the parent in a request of what a person names."""
    if not chain:
        return OWN
    return chain if chain == PLATFORM or "/" in chain else f"tenants/{chain}"


def _pieces(
    context: CommandContext, client: EdgeClient, request: ExportAuditEntriesRequest
) -> Iterator[ExportAuditEntriesResponse]:
    """Gives the pieces of an export, and shows how far it is."""
    newest = ListAuditEntriesRequest(parent=request.parent, page_size=1)
    entries = client.audit.ListAuditEntries(newest, timeout=CALL_TIMEOUT_S).audit_entries
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress:
        task = progress.add_task("reading entries", total=entries[0].sequence if entries else None)
        for piece in client.audit.ExportAuditEntries(request, timeout=EXPORT_TIMEOUT_S):
            progress.advance(task, piece.data.count(b"\n"))
            yield piece


def _follow_export(context: CommandContext, client: EdgeClient, parent: str, follower: ExportedChain) -> Head:
    request = ExportAuditEntriesRequest(parent=parent, format=ExportFormat.EXPORT_FORMAT_JSON_LINES)
    for piece in _pieces(context, client, request):
        follower.feed(piece.data)
        if piece.HasField("head"):
            return Head(follower.chain or parent, piece.head.sequence, piece.head.hash, piece.head.signature)
    raise ChainBroken(follower.sequence + 1, "The export ended without a head.")


def _follow_file(file: Path, follower: ExportedChain) -> Head | None:
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            follower.feed(data)
    return read_head(file.with_name(file.name + HEAD_SUFFIX))


def _is_signed(head: Head | None, jwks: Path | None) -> bool:
    if head is None or jwks is None or head.sequence == 0:
        return False
    check_signature(head, jwks)
    return True


def _chain_in(data: bytes) -> str:
    match = NAME.search(data)
    return "" if match is None else match[1].decode()


def _local_keys(context: CommandContext) -> Path | None:
    file = DevelopmentAuthority(context.home.pki).jwks
    return file if file.is_file() else None


def _tell_broken(context: CommandContext, broken: ChainBroken, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"intact": False, "broken_sequence": broken.sequence, "problem": broken.problem}, indent=2))
        return
    context.err.print(f"[bold red]broken at entry {broken.sequence}:[/] {escape(broken.problem)}")
    context.err.print(
        "[bold]mend:[/]  Nothing puts it right. Keep the database and every export as they are, compare them with a"
        " backup, and find out who could write to the database."
    )


def _tell_whole(context: CommandContext, follower: ExportedChain, is_signed: bool, as_json: bool) -> None:
    if as_json:
        found = {"chain": follower.chain, "sequence": follower.sequence, "hash": follower.hash}
        print(json.dumps({"intact": True, **found, "signature_checked": is_signed}, indent=2))
        return
    signature = "its signature is good" if is_signed else "its signature was not checked; --jwks FILE does"
    context.out.print(
        f"[green]Whole:[/] {escape(follower.chain) or 'no chain yet'}, {follower.sequence} entries. The head is"
        f" {follower.hash[:16]}…, {signature}."
    )


def _cells(entry: AuditEntry) -> list[str]:
    more = ", ".join(f"{name}={value}" for name, value in sorted(entry.details.items()))
    return [
        str(entry.sequence),
        entry.time.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        entry.actor,
        entry.action.rpartition(".")[2],
        entry.resource,
        entry.result,
        "" if entry.count == 1 else str(entry.count),
        entry.source,
        more,
    ]
