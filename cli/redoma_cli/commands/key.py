"""`redoma key`: the API keys that programs call with."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from redoma.tenant.v1.api_key_pb2 import ApiKey, CreateApiKeyRequest, UpdateApiKeyRequest
from redoma.tenant.v1.quota_pb2 import Limits
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.keys import key_id, key_table, list_keys, revoke_key, rotate_key, show_key
from redoma_cli.commands.limits import (
    BudgetOption,
    DayOption,
    MonthOption,
    RequestsOption,
    StreamsOption,
    TokensOption,
    change_limits,
    limits_given,
)
from redoma_cli.commands.names import child_resource
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, TenantArgument
from redoma_cli.commands.output import print_json, short_name
from redoma_cli.context import make_context
from redoma_cli.errors import CliError

ApiKeyArgument = Annotated[
    str,
    typer.Argument(metavar="TENANT/KEY", help="The first column of `redoma key list`, or the whole resource name."),
]
ExpiryOption = Annotated[
    str | None, typer.Option("--expires-in", help="When it stops working, such as 12h, 30d or 8w.")
]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use, of its tenant's; repeat for more.")
]
CidrOption = Annotated[
    list[str] | None,
    typer.Option("--cidr", metavar="NETWORK", help="A network it may be used from; repeat for more."),
]
UserOption = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="The user it stands for in usage: `redoma user list`.")
]
OverlapOption = Annotated[
    str, typer.Option("--overlap", help="How long both keys work, up to 30d; `none` revokes the former at once.")
]
NEVER = "never"


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Make, list, change, rotate and revoke API keys.",
        epilog="Example:  redoma key create acme",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("create", epilog="Example:  redoma key create acme --name ci --expires-in 30d --tokens-per-day 2M")(
        create
    )
    group.command("list", epilog="Example:  redoma key list acme")(list_all)
    group.command("get", epilog="Example:  redoma key get acme/3f0c9a12b4d5e6f7")(get)
    group.command("update", epilog="Example:  redoma key update acme/3f0c9a12b4d5e6f7 --cidr 203.0.113.0/24")(update)
    group.command("rotate", epilog="Example:  redoma key rotate acme/3f0c9a12b4d5e6f7 --overlap 1h")(rotate)
    group.command("revoke", epilog="Example:  redoma key revoke acme/3f0c9a12b4d5e6f7")(revoke)
    return group


def create(
    tenant: TenantArgument,
    name: Annotated[str, typer.Option("--name", help="What people call it.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="generate, conversations, tenant.read, tenant.admin or tenant.owner; repeat for more. The first two"
            " unless told otherwise.",
        ),
    ] = None,
    expires_in: ExpiryOption = None,
    model: ModelOption = None,
    cidr: CidrOption = None,
    user: UserOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_streams: StreamsOption = None,
    tokens_per_day: DayOption = None,
    tokens_per_month: MonthOption = None,
    budget_per_month: BudgetOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once."""
    context = make_context()
    settings = ApiKey(display_name=name, scopes=scope or [], models=model or [], cidrs=cidr or [])
    if expires_in is not None:
        set_expiry(settings, expires_in)
    if user:
        settings.user = user_of(tenant, user)
    given = limits_given(
        requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, budget_per_month
    )
    limits = Limits()
    if change_limits(limits, given):
        settings.limits.CopyFrom(limits)
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
    with context.client(edge, key, ADMIN) as client, client.telling():
        keys = list_keys(client, f"tenants/{tenant}")
    if as_json:
        print_json(keys)
    else:
        context.out.print(key_table(keys))


def get(api_key: ApiKeyArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a key's settings; never the key itself."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        show_key(context, _find(client, key_resource(api_key)), as_json)


def update(
    api_key: ApiKeyArgument,
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="When it stops working, such as 30d; `never` is not at all.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model it may use; repeat for more; '' is all its tenant's.")
    ] = None,
    cidr: Annotated[
        list[str] | None, typer.Option("--cidr", help="A network it may be used from; repeat for more; '' is any.")
    ] = None,
    user: UserOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_streams: StreamsOption = None,
    tokens_per_day: DayOption = None,
    tokens_per_month: MonthOption = None,
    budget_per_month: BudgetOption = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a key's settings; it stays the same key. Limits that are not named stay as they are."""
    context = make_context()
    resource = key_resource(api_key)
    wanted, paths = _wanted(resource, name, expires_in, model, cidr)
    if user is not None:
        wanted.user = user and user_of(resource.split("/")[1], user)
        paths.append("user")
    given = limits_given(
        requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, budget_per_month
    )
    has_limits = change_limits(Limits(), given)
    if not paths and not has_limits:
        raise CliError("There is nothing to change.", "Give --name, --cidr, --model or another; --help lists them.")
    wanted.etag = etag
    with context.client(edge, key, ADMIN) as client, client.telling():
        if has_limits:
            _merge_limits(client, wanted, given)
            paths.append("limits")
        request = UpdateApiKeyRequest(api_key=wanted, update_mask=FieldMask(paths=paths))
        show_key(context, client.keys.UpdateApiKey(request, timeout=CALL_TIMEOUT_S).api_key, as_json)


def rotate(
    api_key: ApiKeyArgument,
    overlap: OverlapOption = "24h",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key with the settings of another, which stops working after an overlap. It is shown this once."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client:
        rotate_key(context, client, key_resource(api_key), overlap, as_json)


def revoke(
    api_key: ApiKeyArgument,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key for good; calls that run with it end within a second."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client:
        revoke_key(context, client, key_resource(api_key), as_json)


def set_expiry(api_key: ApiKey, text: str) -> None:
    """Lets a key expire after the duration that `text` tells."""
    api_key.expire_time.FromDatetime(datetime.now(UTC) + parse_duration(text))


def key_resource(text: str) -> str:
    """Gives the resource name of what a person names as tenant/key, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    return child_resource(text, "apiKeys", "a key", "redoma key list TENANT")


def user_of(tenant: str, text: str) -> str:
    """Gives the resource name of a tenant's user whom a person names by his id, as tenant/user or by that name."""
    return text if text.startswith("tenants/") else f"tenants/{tenant}/users/{short_name(text)}"


def _wanted(
    resource: str, name: str | None, expires_in: str | None, model: list[str] | None, cidr: list[str] | None
) -> tuple[ApiKey, list[str]]:
    """Gives a key with what is given, and the names of the fields."""
    wanted, paths = ApiKey(name=resource), []
    if name is not None:
        wanted.display_name = name
        paths.append("display_name")
    if expires_in is not None:
        if expires_in != NEVER:
            set_expiry(wanted, expires_in)
        paths.append("expire_time")
    if model is not None:
        wanted.models.extend(item for item in model if item)
        paths.append("models")
    if cidr is not None:
        wanted.cidrs.extend(item for item in cidr if item)
        paths.append("cidrs")
    return wanted, paths


def _merge_limits(client: EdgeClient, wanted: ApiKey, given: Mapping[str, str | None]) -> None:
    """Takes the limits that are not named from the key as it is, and lets it be changed only as it is."""
    found = _find(client, wanted.name)
    wanted.limits.CopyFrom(found.limits)
    change_limits(wanted.limits, given)
    wanted.etag = wanted.etag or found.etag


def _find(client: EdgeClient, resource: str) -> ApiKey:
    for api_key in list_keys(client, resource.partition("/apiKeys/")[0]):
        if api_key.name == resource:
            return api_key
    raise CliError(f"{resource} does not exist.", "`redoma key list TENANT` shows the keys there are.")
