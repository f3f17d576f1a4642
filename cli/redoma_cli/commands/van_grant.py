"""`redoma van grant`, `grants`, `revoke-grant`: the tokens by which private sites join."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.markup import escape

from redoma.provisioner.v1.link_grant_pb2 import LinkGrant
from redoma.provisioner.v1.network_pb2 import (
    CreateLinkGrantRequest,
    ListLinkGrantsRequest,
    RevokeLinkGrantRequest,
)
from redoma.provisioner.v1.site_pb2 import Driver
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.context import make_context
from redoma_cli.errors import VAN_MENDS, CliError
from redoma_cli.join_token import token_address
from redoma_cli.local.options import is_loopback
from redoma_cli.network import driver_name, site_id

DRIVERS = {
    "embedded": Driver.DRIVER_EMBEDDED,
    "skupper-kubernetes": Driver.DRIVER_SKUPPER_KUBERNETES,
    "skupper-system": Driver.DRIVER_SKUPPER_SYSTEM,
}

# Of these a private site needs no word.
OWN_WAY = (Driver.DRIVER_UNSPECIFIED, Driver.DRIVER_EMBEDDED)


def grant(
    site: Annotated[str, typer.Option("--site", metavar="NAME", help="The site's id, such as hospital-a.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it can be redeemed, from 1m to 7d.")] = "15m",
    rejoin: Annotated[
        bool, typer.Option("--rejoin", help="For a site that has joined: it may anew; its certificates are refused.")
    ] = False,
    driver: Annotated[str, typer.Option("--driver", help=f"What carries its links: {', '.join(DRIVERS)}.")] = "",
    local: Annotated[
        bool, typer.Option("--local", help="The site is on this machine, so a loopback address will do.")
    ] = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token by which one private site can join, once, and print what to type there."""
    context = make_context()
    if driver and driver not in DRIVERS:
        raise CliError(f"{driver} is no driver.", f"Choose among: {', '.join(DRIVERS)}")
    wanted = LinkGrant(site=f"sites/{site}", ttl=Duration(seconds=int(parse_duration(ttl).total_seconds())))
    wanted.driver = DRIVERS.get(driver, Driver.DRIVER_UNSPECIFIED)
    request = CreateLinkGrantRequest(link_grant=wanted, rejoin=rejoin)
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        made = client.network.CreateLinkGrant(request, timeout=CALL_TIMEOUT_S)
        if not local:
            _refuse_loopback(client, made.link_grant.name, token_address(made.token))
    if as_json:
        print_json(made)
        return
    print(made.token, flush=True)
    until = made.link_grant.expire_time.ToDatetime(tzinfo=UTC).astimezone()
    context.err.print(f"\nIt lets site {escape(site)} in once, until {until:%H:%M} ({escape(ttl)}). On its machine:\n")
    # Plain, so that no terminal width or colour gets into what is pasted.
    over = "" if made.link_grant.driver in OWN_WAY else " --driver skupper-system"
    typer.echo(f"  redoma up --site private{over} --join {made.token}\n", err=True)
    context.err.print("or, where a private site is already set up:\n")
    typer.echo(f"  redoma van join {made.token}", err=True)


def _refuse_loopback(client: EdgeClient, name: str, address: str) -> None:
    """Takes a grant back whose token no other machine could use."""
    if not is_loopback(address):
        return
    client.network.RevokeLinkGrant(RevokeLinkGrantRequest(name=name), timeout=CALL_TIMEOUT_S)
    raise CliError(
        f"The token would lead to {address}, which no other machine reaches, so the grant was revoked.",
        "Let others reach the public site: redoma up --site public --van-address HOST:PORT; "
        "for a site on this machine add --local.",
    )


def grants(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List grants, the newest first."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        found = list_items(client.network.ListLinkGrants, ListLinkGrantsRequest(), lambda page: page.link_grants)
    if as_json:
        print_json(found)
        return
    table = list_table(("grant", "site", "state", "driver", "made", "until", "redeemed", "by"), whole=("grant",))
    for entry in found:
        state = LinkGrant.State.Name(entry.state).removeprefix("STATE_").lower()
        colour = "green" if entry.state == LinkGrant.STATE_ACTIVE else "dim"
        table.add_row(
            short_name(entry.name),
            site_id(entry.site),
            f"[{colour}]{state}[/]",
            driver_name(entry.driver),
            short_time(entry.create_time),
            short_time(entry.expire_time),
            short_time(entry.redeem_time),
            escape(entry.creator),
        )
    context.out.print(table)


def revoke_grant(
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="The first column of `redoma van grants`.")],
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a grant, so that its token lets nobody in any more."""
    context = make_context()
    request = RevokeLinkGrantRequest(name=f"linkGrants/{grant_id.removeprefix('linkGrants/')}")
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        revoked = client.network.RevokeLinkGrant(request, timeout=CALL_TIMEOUT_S).link_grant
    if as_json:
        print_json(revoked)
        return
    state = LinkGrant.State.Name(revoked.state).removeprefix("STATE_").lower()
    left = (revoked.expire_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    was = "" if revoked.state == LinkGrant.STATE_REVOKED and left > 0 else " It could not be redeemed any more anyway."
    context.out.print(f"Grant {escape(short_name(revoked.name))} of site {site_id(revoked.site)} is {state}.{was}")
