"""`redoma van proxies`: what the Envoys have, what they refused, and why."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from redoma.provisioner.v1.edge_pb2 import (
    GetSnapshotRequest,
    ListProxiesRequest,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    Proxy,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json, short_name, short_time
from redoma_cli.context import make_context
from redoma_cli.errors import FAILED, VAN_MENDS, CliError

VERSION_CHARACTERS = 12


def proxies(
    proxy: Annotated[str, typer.Argument(metavar="ENVOY", help="Only this one, with its last snapshots.")] = "",
    resources: Annotated[
        bool, typer.Option("--resources", help="Print what it is served, as JSON, private keys left out.")
    ] = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each Envoy has of its configuration. Exits with 1 if one refused something or is cut off."""
    context = make_context()
    if resources and not proxy:
        raise CliError("Say whose resources.", "redoma van proxies egress --resources")
    name = f"proxies/{proxy.removeprefix('proxies/')}"
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        if resources:
            print_json(client.proxies.GetSnapshot(GetSnapshotRequest(proxy=name), timeout=CALL_TIMEOUT_S))
            return
        known = client.proxies.ListProxies(ListProxiesRequest(), timeout=CALL_TIMEOUT_S).proxies
        found = [entry for entry in known if not proxy or entry.name == name]
        if not found:
            raise CliError(f"There is no Envoy {proxy}." if proxy else "No Envoy has asked yet.", "redoma van proxies")
        request = ListSnapshotsRequest(proxy=name)
        former = client.proxies.ListSnapshots(request, timeout=CALL_TIMEOUT_S) if proxy else ListSnapshotsResponse()
    if as_json:
        print_json(found)
    else:
        context.out.print(proxy_table(found))
        for sentence in complaints(found):
            context.out.print(f"[red]{escape(sentence)}[/]")
        if former.snapshots:
            context.out.print()
            context.out.print(snapshot_table(former))
    if complaints(found):
        raise typer.Exit(FAILED)


def proxy_table(found: list[Proxy]) -> Table:
    """Lists what each Envoy has, a row for each type of resource."""
    columns = ("envoy", "connected", "snapshot", "made", "type", "resources", "accepted")
    table = list_table(columns, right=("resources",), whole=columns)
    for proxy in found:
        first = [
            short_name(proxy.name),
            "[green]yes[/]" if proxy.connected else "[red]no[/]",
            proxy.version[:VERSION_CHARACTERS],
            short_time(proxy.update_time),
        ]
        for kind in proxy.types:
            current = not kind.refusal and kind.accepted_version == kind.sent_version
            state = "[green]yes[/]" if current else "[red]refused[/]" if kind.refusal else "[yellow]not yet[/]"
            table.add_row(*first, short_type(kind.type_url), str(kind.resources), state)
            first = ["", "", "", ""]
        if not proxy.types:
            table.add_row(*first, "", "", "")
    return table


def complaints(found: list[Proxy]) -> list[str]:
    """Says what Envoys refused, in their own words, what was withheld from them, and who is not connected."""
    told = []
    for proxy in found:
        name = short_name(proxy.name)
        told += [
            f"{name} refused {short_type(kind.type_url)} and keeps what it had. Envoy says: {kind.refusal}"
            for kind in proxy.types
            if kind.refusal
        ]
        if proxy.withheld:
            told.append(f"{name} was not served a newer snapshot: {proxy.withheld}")
        if not proxy.connected:
            told.append(f"{name} is not connected to its provisioner, and serves on as it was.")
    return told


def snapshot_table(former: ListSnapshotsResponse) -> Table:
    """Lists the last snapshots of an Envoy."""
    table = list_table(("snapshot", "made", "why", "what changed"), whole=("snapshot", "made"))
    for snapshot in former.snapshots:
        table.add_row(
            snapshot.version[:VERSION_CHARACTERS],
            short_time(snapshot.create_time),
            escape(snapshot.cause),
            escape("; ".join(snapshot.changes)),
        )
    return table


def short_type(type_url: str) -> str:
    """Gives the last word of a type, such as Cluster."""
    return type_url.rsplit(".", 1)[-1]
