"""`redoma key`: the API keys that programs call with."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from redoma.tenant.v1.api_key_pb2 import ApiKey, CreateApiKeyRequest, ListApiKeysRequest, RevokeApiKeyRequest
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json, short_time
from redoma_cli.context import make_context
from redoma_cli.errors import CliError

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, such as acme.")]
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Make, list and revoke API keys.",
        epilog="Example:  redoma key create acme",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("create", epilog="Example:  redoma key create acme --name ci --expires-in 30d")(create)
    group.command("list", epilog="Example:  redoma key list acme")(list_all)
    group.command("revoke", epilog="Example:  redoma key revoke acme/01j9x2")(revoke)
    return group


def create(
    tenant: TenantArgument,
    name: Annotated[str, typer.Option("--name", help="What people call it.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="generate, conversations or tenant.admin; repeat for more.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="When it stops working, such as 12h, 30d or 8w.")] = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once."""
    context = make_context()
    settings = ApiKey(display_name=name, scopes=scope or [])
    if expires_in is not None:
        settings.expire_time.FromDatetime(datetime.now(UTC) + parse_duration(expires_in))
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = CreateApiKeyRequest(parent=f"tenants/{tenant}", api_key=settings)
        made = client.keys.CreateApiKey(request, timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(made)
        return
    print(made.secret, flush=True)
    context.err.print(f"Keep it: it is not shown again. Revoke it with: redoma key revoke {key_id(made.api_key)}")


def list_all(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List a tenant's keys, the newest first."""
    context = make_context()
    keys: list[ApiKey] = []
    with context.client(edge, key, ADMIN) as client, client.telling():
        page_token = ""
        while True:
            request = ListApiKeysRequest(parent=f"tenants/{tenant}", page_size=1000, page_token=page_token)
            page = client.keys.ListApiKeys(request, timeout=CALL_TIMEOUT_S)
            keys += page.api_keys
            page_token = page.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(keys)
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("key", "name", "begins with", "state", "may", "created", "last used", "expires"):
        table.add_column(column, no_wrap=column in ("key", "begins with", "state"), overflow="fold")
    for item in keys:
        table.add_row(
            key_id(item),
            item.display_name,
            item.prefix,
            ApiKey.State.Name(item.state).removeprefix("STATE_").lower(),
            ", ".join(item.scopes),
            short_time(item.create_time),
            short_time(item.last_use_time),
            short_time(item.expire_time),
        )
    context.out.print(table)


def revoke(
    api_key: Annotated[
        str,
        typer.Argument(metavar="TENANT/KEY", help="The first column of `redoma key list`, or the whole resource name."),
    ],
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key for good."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = RevokeApiKeyRequest(name=key_resource(api_key))
        revoked = client.keys.RevokeApiKey(request, timeout=CALL_TIMEOUT_S).api_key
    if as_json:
        print_json(revoked)
    else:
        context.out.print(f"Revoked {revoked.prefix}…")


def key_id(api_key: ApiKey) -> str:
    """Names a key for people: tenant/key."""
    _, tenant, _, key = api_key.name.split("/")
    return f"{tenant}/{key}"


def key_resource(text: str) -> str:
    """Gives the resource name of what a person names as tenant/key, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    parts = text.split("/")
    if len(parts) == 2 and all(parts):
        return f"tenants/{parts[0]}/apiKeys/{parts[1]}"
    if len(parts) == 4 and parts[0] == "tenants" and parts[2] == "apiKeys":
        return text
    raise CliError(f"{text} is not a key's name.", "Write it as TENANT/KEY; `redoma key list TENANT` shows them.")


def parse_duration(text: str) -> timedelta:
    """Reads a duration such as 90m, 12h, 30d or 8w.

    Raises:
        CliError: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not number.isascii() or not number.isdigit() or not 0 < int(number) <= 100_000:
        raise CliError(f"{text} is not a duration.", "Write it as 90m, 12h, 30d or 8w.")
    return timedelta(seconds=int(number) * UNITS_S[unit])
