"""`redoma tenant`: who may use the model."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.table import Table

from redoma.tenant.v1.tenant_pb2 import (
    BlockedPattern,
    ContentChecks,
    CreateTenantRequest,
    DisableTenantRequest,
    EnableTenantRequest,
    GetTenantRequest,
    ListTenantsRequest,
    Tenant,
    UpdateTenantRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json, short_name, short_time
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, such as acme.")]
DisplayNameOption = Annotated[str | None, typer.Option("--name", help="What people call it.")]
WeightOption = Annotated[int | None, typer.Option(min=1, max=1000, help="Its share of the model, relative to others'.")]
InputLimitOption = Annotated[
    int | None, typer.Option("--max-input-tokens", min=0, help="The most input tokens of one request; 0 is no limit.")
]
RefuseOption = Annotated[list[str] | None, typer.Option("--refuse", help="A text that must not pass; repeat for more.")]
MaskOption = Annotated[
    list[str] | None, typer.Option("--mask", help="A text to replace by \\[masked]; repeat for more.")
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Administer tenants; needs the admin key.",
        epilog="Example:  redoma tenant list",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("create", epilog="Example:  redoma tenant create initech --name Initech --weight 200")(create)
    group.command("list", epilog="Example:  redoma tenant list --json")(list_all)
    group.command("get", epilog="Example:  redoma tenant get acme")(get)
    group.command("update", epilog="Example:  redoma tenant update acme --weight 50 --refuse 'project x'")(update)
    group.command("disable", epilog="Example:  redoma tenant disable globex")(disable)
    group.command("enable", epilog="Example:  redoma tenant enable globex")(enable)
    return group


def create(
    tenant: TenantArgument,
    name: DisplayNameOption = None,
    weight: WeightOption = None,
    max_input_tokens: InputLimitOption = None,
    refuse: RefuseOption = None,
    mask: MaskOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant. Give it a key with `redoma key create`."""
    context = make_context()
    settings = Tenant(display_name=name or tenant, weight=weight or 0)
    settings.content_checks.CopyFrom(_checks(max_input_tokens, refuse, mask))
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = CreateTenantRequest(tenant_id=tenant, tenant=settings)
        _show(context, client.tenants.CreateTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the tenants."""
    context = make_context()
    tenants: list[Tenant] = []
    with context.client(edge, key, ADMIN) as client, client.telling():
        page_token = ""
        while True:
            request = ListTenantsRequest(page_size=1000, page_token=page_token)
            page = client.tenants.ListTenants(request, timeout=CALL_TIMEOUT_S)
            tenants += page.tenants
            page_token = page.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(tenants)
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("tenant", "name", "state", "weight", "created"):
        table.add_column(column, justify="right" if column == "weight" else "left")
    for tenant in tenants:
        table.add_row(
            short_name(tenant.name),
            tenant.display_name,
            _state(tenant),
            str(tenant.weight),
            short_time(tenant.create_time),
        )
    context.out.print(table)


def get(tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a tenant."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = GetTenantRequest(name=f"tenants/{tenant}")
        _show(context, client.tenants.GetTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def update(
    tenant: TenantArgument,
    name: DisplayNameOption = None,
    weight: WeightOption = None,
    max_input_tokens: InputLimitOption = None,
    refuse: RefuseOption = None,
    mask: MaskOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant. The checks given replace all its checks; --refuse '' takes the patterns away."""
    context = make_context()
    settings, paths = Tenant(name=f"tenants/{tenant}"), []
    if name is not None:
        settings.display_name = name
        paths.append("display_name")
    if weight is not None:
        settings.weight = weight
        paths.append("weight")
    if max_input_tokens is not None or refuse or mask:
        settings.content_checks.CopyFrom(_checks(max_input_tokens, refuse, mask))
        paths.append("content_checks")
    if not paths:
        raise CliError("There is nothing to change.", "Give --name, --weight, --max-input-tokens, --refuse or --mask.")
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = UpdateTenantRequest(tenant=settings, update_mask=FieldMask(paths=paths))
        _show(context, client.tenants.UpdateTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def disable(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Refuse all keys of a tenant until it is enabled again."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = DisableTenantRequest(name=f"tenants/{tenant}")
        _show(context, client.tenants.DisableTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def enable(tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Let a disabled tenant in again."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = EnableTenantRequest(name=f"tenants/{tenant}")
        _show(context, client.tenants.EnableTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def _checks(max_input_tokens: int | None, refuse: list[str] | None, mask: list[str] | None) -> ContentChecks:
    patterns = [BlockedPattern(text=text, action=BlockedPattern.ACTION_REFUSE) for text in refuse or [] if text]
    patterns += [BlockedPattern(text=text, action=BlockedPattern.ACTION_MASK) for text in mask or [] if text]
    return ContentChecks(max_input_tokens=max_input_tokens or 0, blocked_patterns=patterns)


def _state(tenant: Tenant) -> str:
    return Tenant.State.Name(tenant.state).removeprefix("STATE_").lower()


def _show(context: CommandContext, tenant: Tenant, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("tenant", short_name(tenant.name))
    table.add_row("name", tenant.display_name)
    table.add_row("state", _state(tenant))
    table.add_row("weight", str(tenant.weight))
    table.add_row("created", short_time(tenant.create_time))
    if tenant.content_checks.max_input_tokens:
        table.add_row("max input", f"{tenant.content_checks.max_input_tokens} tokens")
    for pattern in tenant.content_checks.blocked_patterns:
        table.add_row(BlockedPattern.Action.Name(pattern.action).removeprefix("ACTION_").lower(), pattern.text)
    context.out.print(table)
