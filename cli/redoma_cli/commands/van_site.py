"""`redoma van update`, `revoke`, `delete`, `rotate`: what an operator does to one site."""

from typing import Annotated

import typer
from rich.markup import escape

from redoma.provisioner.v1.network_pb2 import (
    DeleteSiteRequest,
    RevokeSiteRequest,
    RotateCertificatesRequest,
    UpdateSiteRequest,
)
from redoma.provisioner.v1.site_pb2 import Site
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.operation import follow
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, YesOption
from redoma_cli.commands.output import print_json
from redoma_cli.context import make_context
from redoma_cli.errors import VAN_MENDS, CliError
from redoma_cli.network import site_id

SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="The site's id; `redoma van sites` shows them.")]


def update(
    site: SiteArgument,
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=0, max=9, help="Of sites whose models answer, those with the lowest number are used."),
    ] = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what people call a site, or when it is used."""
    context = make_context()
    given = {field: value for field, value in (("display_name", name), ("priority", priority)) if value is not None}
    if not given:
        raise CliError("Nothing is to change.", f"redoma van update {site} --priority 1")
    request = UpdateSiteRequest(site=Site(name=_name(site), display_name=name or "", priority=priority or 0, etag=etag))
    request.update_mask.paths.extend(given)
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        updated = client.network.UpdateSite(request, timeout=CALL_TIMEOUT_S).site
    if as_json:
        print_json(updated)
    else:
        called = f", called {escape(updated.display_name)}" if updated.display_name else ""
        context.out.print(f"Site {escape(site_id(updated.name))} has the priority {updated.priority}{called}.")


def revoke(
    site: SiteArgument,
    yes: YesOption = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a site for good: its links and all that runs over them are cut, and its certificates refused."""
    context = make_context()
    confirm(f"Cut off site {site} for good, with every answer that it computes now?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        revoked = client.network.RevokeSite(RevokeSiteRequest(name=_name(site)), timeout=CALL_TIMEOUT_S).site
    if as_json:
        print_json(revoked)
    else:
        context.out.print(
            f"Site {escape(site_id(revoked.name))} is revoked. To let it in anew some day: redoma van delete "
            f"{escape(site)}, then grant it anew."
        )


def delete(site: SiteArgument, yes: YesOption = False, edge: EdgeOption = None, key: KeyOption = None) -> None:
    """Forget a site that was revoked or has never joined. Its certificates stay refused."""
    context = make_context()
    confirm(f"Forget site {site}?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        client.network.DeleteSite(DeleteSiteRequest(name=_name(site)), timeout=CALL_TIMEOUT_S)
    context.out.print(f"Site {escape(site)} is forgotten.")


def rotate(site: SiteArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Give a site new certificates for new keys, breaking no running call. Ctrl-C leaves it to go on."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        request = RotateCertificatesRequest(name=_name(site))
        operation = client.network.RotateCertificates(request, timeout=CALL_TIMEOUT_S).operation
        ended = follow(context, client, operation)
    if as_json:
        print_json(ended)
    else:
        context.out.print(f"Site {escape(site)} has new certificates; the old ones are refused.")


def _name(site: str) -> str:
    return f"sites/{site.removeprefix('sites/')}"
