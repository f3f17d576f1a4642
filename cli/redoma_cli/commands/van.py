"""`redoma van`: the network of sites: who may join, who is linked and why not, and what its Envoys have."""

import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from redoma.provisioner.v1.network_pb2 import (
    WatchNetworkRequest,
    WatchNetworkResponse,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient, read_demo
from redoma_cli.commands import van_grant, van_join, van_proxies, van_site
from redoma_cli.commands.conditions import headline, site_table, sites_table
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json
from redoma_cli.commands.van_state import show_state, state_as_json
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import FAILED, VAN_MENDS, CliError
from redoma_cli.local.membership import read_state
from redoma_cli.local.standing import own_state
from redoma_cli.network import health_of, links_of, private_sites, read_network

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Go on, with each change.")]
STATE_POLL_S = 0.5


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="The network of sites: let private sites in, see how each is linked and why not, change and revoke them.",
        epilog="Examples:  redoma van grant --site hospital-a  ·  redoma van status",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("grant", epilog="Example:  redoma van grant --site hospital-a --ttl 1h")(van_grant.grant)
    group.command("grants", epilog="Example:  redoma van grants --json")(van_grant.grants)
    group.command("revoke-grant", epilog="Example:  redoma van revoke-grant 3f0c9a12")(van_grant.revoke_grant)
    group.command("join", epilog="Example:  redoma van join rdmj_eyJhIjoi…")(van_join.join)
    group.command("status", epilog="Example:  redoma van status hospital-a --watch")(status)
    group.command("sites", epilog="Example:  redoma van sites --json")(sites)
    group.command("update", epilog="Example:  redoma van update hospital-a --priority 1")(van_site.update)
    group.command("revoke", epilog="Example:  redoma van revoke hospital-a --yes")(van_site.revoke)
    group.command("rotate", epilog="Example:  redoma van rotate hospital-a")(van_site.rotate)
    group.command("delete", epilog="Example:  redoma van delete hospital-a --yes")(van_site.delete)
    group.command("proxies", epilog="Examples:  redoma van proxies  ·  redoma van proxies egress")(van_proxies.proxies)
    return group


def status(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Only this site; all by default.")] = "",
    watch: WatchOption = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain each site, its link, and what it exposes. Exits with 1 unless every joined site is linked.

    On a machine with the private site alone it tells what that site itself knows.
    """
    context = make_context()
    if edge is None and key is None and read_demo(context.home) is None:
        _status_of_private(context, watch, as_json)
        return
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        if watch:
            _watch(context, client, site, as_json)
            return
        view = only(read_network(client, CALL_TIMEOUT_S), site)
    if as_json:
        print_json(view)
    else:
        context.out.print(explained(view), soft_wrap=False)
    if not all_linked(view):
        raise typer.Exit(FAILED)


def only(view: WatchNetworkResponse, site: str) -> WatchNetworkResponse:
    """Gives the part of a network that is one site's; all of it for an empty name.

    Raises:
        CliError: There is no such site.
    """
    if not site:
        return view
    name = f"sites/{site.removeprefix('sites/')}"
    part = WatchNetworkResponse(
        sites=[entry for entry in view.sites if entry.name == name],
        links=[entry for entry in view.links if entry.name.startswith(f"{name}/")],
        listeners=[entry for entry in view.listeners if entry.site == name],
        connectors=[entry for entry in view.connectors if entry.name.startswith(f"{name}/")],
    )
    if not part.sites:
        raise CliError(f"There is no site {site}.", "`redoma van sites` shows those there are.")
    return part


def all_linked(view: WatchNetworkResponse) -> bool:
    """Whether there is a joined site, and every one is linked."""
    healths = [health_of(entry, links_of(view, entry)) for entry in private_sites(view)]
    joined = [health for health in healths if health.word not in ("Revoked", "Invited")]
    return bool(joined) and all(health.linked for health in joined)


def explained(view: WatchNetworkResponse) -> RenderableType:
    """Explains a network."""
    now = datetime.now(UTC)
    found = private_sites(view)
    if not found:
        return Text("No private site has joined. Let one in: redoma van grant --site NAME")
    parts: list[RenderableType] = []
    for site in found:
        health = health_of(site, links_of(view, site))
        parts.append(Text.from_markup(headline(health, now)))
        if health.sentence or health.mend:
            parts.append(Text(f"  {health.sentence} {health.mend}".rstrip(), style="yellow"))
        parts += [site_table(view, site, now), Text("")]
    return Group(*parts[:-1])


def _watch(context: CommandContext, client: EdgeClient, site: str, as_json: bool) -> None:
    views = client.network.WatchNetwork(WatchNetworkRequest())
    try:
        if as_json or not context.out.is_terminal:
            for view in views:
                part = only(view, site)
                print_json(part) if as_json else context.out.print(explained(part), soft_wrap=False)
                sys.stdout.flush()
            return
        with Live(console=context.out, refresh_per_second=4) as live:
            for view in views:
                live.update(explained(only(view, site)))
    except KeyboardInterrupt:
        views.cancel()


def _status_of_private(context: CommandContext, watch: bool, as_json: bool) -> None:
    directory = context.home.private.membership
    state = read_state(directory)
    if not state.phase:
        raise CliError(
            "This machine has neither a public site nor a private one that has joined.",
            "Start both with: redoma up; or name the edge with --edge and its admin key with --key.",
        )
    told = None
    try:
        while True:
            state = own_state(context.home)
            if state != told:
                told = state
                state_as_json(directory) if as_json else show_state(context.out, state)
            if not watch:
                break
            time.sleep(STATE_POLL_S)
    except KeyboardInterrupt:
        return
    if not state.linked:
        raise typer.Exit(FAILED)


def sites(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the private sites, revoked ones too."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        view = read_network(client, CALL_TIMEOUT_S)
    if as_json:
        print_json(private_sites(view))
    else:
        context.out.print(sites_table(view, datetime.now(UTC)))
