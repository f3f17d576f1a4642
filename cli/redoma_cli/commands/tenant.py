"""`redoma tenant`: who may use the model."""

from datetime import timedelta
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.markup import escape

from redoma.tenant.v1.tenant_pb2 import (
    CreateTenantRequest,
    DeleteTenantRequest,
    DisableTenantRequest,
    EnableTenantRequest,
    GetTenantRequest,
    ListTenantsRequest,
    Tenant,
    UndeleteTenantRequest,
    UpdateTenantRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.durations import duration_text, parse_duration
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, TenantArgument, YesOption
from redoma_cli.commands.output import list_table, print_json, settings_table, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.commands.tenant_settings import (
    AdapterOption,
    ConsentOption,
    DisplayNameOption,
    InputLimitOption,
    IsolationOption,
    MaskOption,
    ModelOption,
    PlanOption,
    RefuseOption,
    RegionOption,
    RetentionOption,
    StorageOption,
    WeightOption,
    content_checks,
    isolation_text,
    set_belongings,
    set_keeping,
    setting_rows,
    state_text,
)
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Administer tenants; needs the admin key.",
        epilog="Example:  redoma tenant list",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("create", epilog="Example:  redoma tenant create initech --plan gold --retention 90d")(create)
    group.command("list", epilog="Example:  redoma tenant list --json")(list_all)
    group.command("get", epilog="Example:  redoma tenant get acme")(get)
    group.command("update", epilog="Example:  redoma tenant update acme --weight 50 --refuse 'project x'")(update)
    group.command("disable", epilog="Example:  redoma tenant disable globex")(disable)
    group.command("enable", epilog="Example:  redoma tenant enable globex")(enable)
    group.command("delete", epilog="Example:  redoma tenant delete globex --grace 7d")(delete)
    group.command("undelete", epilog="Example:  redoma tenant undelete globex")(undelete)
    return group


def create(
    tenant: TenantArgument,
    name: DisplayNameOption = None,
    weight: WeightOption = None,
    max_input_tokens: InputLimitOption = None,
    refuse: RefuseOption = None,
    mask: MaskOption = None,
    plan: PlanOption = None,
    isolation: IsolationOption = None,
    adapter: AdapterOption = None,
    model: ModelOption = None,
    region: RegionOption = None,
    retention: RetentionOption = None,
    tuning_consent: ConsentOption = None,
    content_storage: StorageOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant. Give it a key with `redoma key create`."""
    context = make_context()
    settings = Tenant(display_name=tenant if name is None else name, weight=weight or 0)
    settings.content_checks.CopyFrom(content_checks(max_input_tokens, refuse, mask))
    set_belongings(settings, plan, isolation, adapter, model, region)
    set_keeping(settings, retention, tuning_consent, content_storage)
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = CreateTenantRequest(tenant_id=tenant, tenant=settings)
        _show(context, client.tenants.CreateTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the tenants."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        tenants = list_tenants(client)
    if as_json:
        print_json(tenants)
        return
    table = list_table(("tenant", "name", "state", "plan", "weight", "isolation", "created"), right=("weight",))
    for tenant in tenants:
        table.add_row(
            short_name(tenant.name),
            escape(tenant.display_name),
            state_text(tenant),
            short_name(tenant.plan),
            str(tenant.weight),
            isolation_text(tenant),
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
    plan: PlanOption = None,
    isolation: IsolationOption = None,
    adapter: AdapterOption = None,
    model: ModelOption = None,
    region: RegionOption = None,
    retention: RetentionOption = None,
    tuning_consent: ConsentOption = None,
    content_storage: StorageOption = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant. The checks given replace all its checks; --refuse '' takes the patterns away."""
    context = make_context()
    settings, paths = Tenant(name=f"tenants/{tenant}", etag=etag), []
    if name is not None:
        settings.display_name = name
        paths.append("display_name")
    if weight is not None:
        settings.weight = weight
        paths.append("weight")
    if max_input_tokens is not None or refuse or mask:
        settings.content_checks.CopyFrom(content_checks(max_input_tokens, refuse, mask))
        paths.append("content_checks")
    paths += set_belongings(settings, plan, isolation, adapter, model, region)
    paths += set_keeping(settings, retention, tuning_consent, content_storage)
    if not paths:
        raise CliError("There is nothing to change.", "Give --name, --weight, --plan or another; --help lists them.")
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


def delete(
    tenant: TenantArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="How long it can be taken back, such as 7d, up to 90d; `none` is not at all.")
    ] = "30d",
    etag: EtagOption = "",
    yes: YesOption = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse all keys of a tenant at once, and erase all that is held of it when the grace is over."""
    context = make_context()
    length = timedelta() if grace == "none" else parse_duration(grace)
    when = f"in {duration_text(length)}" if length else "at once and for good"
    confirm(f"Refuse all keys of {tenant}, end its calls, and erase all that is held of it {when}?", yes)
    request = DeleteTenantRequest(name=f"tenants/{tenant}", etag=etag)
    request.grace.FromTimedelta(length)
    with context.client(edge, key, ADMIN) as client, client.telling():
        _show(context, client.tenants.DeleteTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)
    if length and not as_json:
        context.err.print(f"Take it back until then with: redoma tenant undelete {tenant}")


def undelete(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Take a deletion back."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = UndeleteTenantRequest(name=f"tenants/{tenant}")
        _show(context, client.tenants.UndeleteTenant(request, timeout=CALL_TIMEOUT_S).tenant, as_json)


def list_tenants(client: EdgeClient) -> list[Tenant]:
    """Gives all tenants in the order of their ids."""
    return list_items(client.tenants.ListTenants, ListTenantsRequest(), lambda page: page.tenants)


def _show(context: CommandContext, tenant: Tenant, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
    else:
        context.out.print(settings_table(setting_rows(tenant)))
