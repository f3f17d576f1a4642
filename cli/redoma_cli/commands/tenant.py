"""`redoma tenant`: who may use the model."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1.tenant_pb2 import (
    BlockedPattern,
    ContentChecks,
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
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.durations import duration_text, parse_duration
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, YesOption
from redoma_cli.commands.output import print_json, short_name, short_time
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

FOREVER = "forever"


class IsolationName(StrEnum):
    """What of the model a tenant has for itself."""

    SHARED = "shared"
    SHARED_TUNED = "shared-tuned"
    DEDICATED = "dedicated"


class StorageName(StrEnum):
    """Where the texts of conversations are kept."""

    PUBLIC = "public"
    NONE = "none"
    PRIVATE = "private"


TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, such as acme.")]
DisplayNameOption = Annotated[str | None, typer.Option("--name", help="What people call it.")]
WeightOption = Annotated[
    int | None,
    typer.Option(min=0, max=1000, help="Its share of the model, relative to others'; 0 is its plan's, or 100."),
]
InputLimitOption = Annotated[
    int | None, typer.Option("--max-input-tokens", min=0, help="The most input tokens of one request; 0 is no limit.")
]
RefuseOption = Annotated[list[str] | None, typer.Option("--refuse", help="A text that must not pass; repeat for more.")]
MaskOption = Annotated[
    list[str] | None, typer.Option("--mask", help="A text to replace by \\[masked]; repeat for more.")
]
PlanOption = Annotated[str | None, typer.Option("--plan", help="The plan whose weight and limits it has; '' is none.")]
IsolationOption = Annotated[
    IsolationName | None,
    typer.Option("--isolation", help="What of the model it has for itself: nothing, an adapter, or a process."),
]
AdapterOption = Annotated[
    str | None, typer.Option("--adapter", metavar="DIGEST", help="Its adapter, sha256:…; for shared-tuned alone.")
]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use; repeat for more; '' is all.")
]
RegionOption = Annotated[str | None, typer.Option("--region", help="Where its data and its model belong, such as eu.")]
RetentionOption = Annotated[
    str | None, typer.Option("--retention", help="How long conversations are kept, such as 30d; `forever` is for good.")
]
ConsentOption = Annotated[
    bool | None,
    typer.Option("--tuning-consent/--no-tuning-consent", help="Whether conversations may be used to tune models."),
]
StorageOption = Annotated[
    StorageName | None,
    typer.Option("--content-storage", help="Where conversations are kept: the public site, nowhere, the private site."),
]


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
    settings.content_checks.CopyFrom(_checks(max_input_tokens, refuse, mask))
    _set_belongings(settings, plan, isolation, adapter, model, region)
    _set_keeping(settings, retention, tuning_consent, content_storage)
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
    for column in ("tenant", "name", "state", "plan", "weight", "isolation", "created"):
        table.add_column(column, justify="right" if column == "weight" else "left")
    for tenant in tenants:
        table.add_row(
            short_name(tenant.name),
            escape(tenant.display_name),
            _state(tenant),
            short_name(tenant.plan),
            str(tenant.weight),
            _isolation(tenant),
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
        settings.content_checks.CopyFrom(_checks(max_input_tokens, refuse, mask))
        paths.append("content_checks")
    paths += _set_belongings(settings, plan, isolation, adapter, model, region)
    paths += _set_keeping(settings, retention, tuning_consent, content_storage)
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


def _set_belongings(
    settings: Tenant,
    plan: str | None,
    isolation: IsolationName | None,
    adapter: str | None,
    model: list[str] | None,
    region: str | None,
) -> list[str]:
    """Sets what is given, and gives the names of the fields."""
    paths = []
    if plan is not None:
        settings.plan = plan and f"plans/{plan.removeprefix('plans/')}"
        paths.append("plan")
    if isolation is not None:
        settings.isolation = Tenant.Isolation.Value(f"ISOLATION_{isolation.name}")
        paths.append("isolation")
    if adapter is not None or isolation in (IsolationName.SHARED, IsolationName.DEDICATED):
        settings.adapter = adapter or ""
        paths.append("adapter")
    if model is not None:
        settings.models.extend(item for item in model if item)
        paths.append("models")
    if region is not None:
        settings.region = region
        paths.append("region")
    return paths


def _set_keeping(
    settings: Tenant, retention: str | None, tuning_consent: bool | None, content_storage: StorageName | None
) -> list[str]:
    """Sets what is given, and gives the names of the fields."""
    paths = []
    if retention is not None:
        if retention != FOREVER:
            settings.retention.FromTimedelta(parse_duration(retention))
        paths.append("retention")
    if tuning_consent is not None:
        settings.tuning_consent = tuning_consent
        paths.append("tuning_consent")
    if content_storage is not None:
        settings.content_storage = Tenant.ContentStorage.Value(f"CONTENT_STORAGE_{content_storage.name}")
        paths.append("content_storage")
    return paths


def _checks(max_input_tokens: int | None, refuse: list[str] | None, mask: list[str] | None) -> ContentChecks:
    patterns = [BlockedPattern(text=text, action=BlockedPattern.ACTION_REFUSE) for text in refuse or [] if text]
    patterns += [BlockedPattern(text=text, action=BlockedPattern.ACTION_MASK) for text in mask or [] if text]
    return ContentChecks(max_input_tokens=max_input_tokens or 0, blocked_patterns=patterns)


def _state(tenant: Tenant) -> str:
    return Tenant.State.Name(tenant.state).removeprefix("STATE_").lower()


def _isolation(tenant: Tenant) -> str:
    return Tenant.Isolation.Name(tenant.isolation).removeprefix("ISOLATION_").lower().replace("_", "-")


def _show(context: CommandContext, tenant: Tenant, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _rows(tenant):
        if value:
            table.add_row(name, escape(value))
    context.out.print(table)


def _rows(tenant: Tenant) -> list[tuple[str, str]]:
    storage = Tenant.ContentStorage.Name(tenant.content_storage).removeprefix("CONTENT_STORAGE_").lower()
    retention = duration_text(tenant.retention.ToTimedelta()) if tenant.HasField("retention") else FOREVER
    checks = tenant.content_checks
    return [
        ("tenant", short_name(tenant.name)),
        ("name", tenant.display_name),
        ("state", _state(tenant)),
        ("erased", short_time(tenant.purge_time)),
        ("plan", short_name(tenant.plan)),
        ("weight", str(tenant.weight)),
        ("isolation", _isolation(tenant)),
        ("adapter", tenant.adapter),
        ("models", ", ".join(tenant.models)),
        ("region", tenant.region),
        ("content", f"{storage}, kept {retention}" if storage != StorageName.NONE else "kept nowhere"),
        ("tuning", "consents" if tenant.tuning_consent else ""),
        ("created", short_time(tenant.create_time)),
        ("changed", short_time(tenant.update_time)),
        ("etag", tenant.etag),
        ("max input", f"{checks.max_input_tokens} tokens" if checks.max_input_tokens else ""),
        *(
            (BlockedPattern.Action.Name(pattern.action).removeprefix("ACTION_").lower(), pattern.text)
            for pattern in checks.blocked_patterns
        ),
    ]
