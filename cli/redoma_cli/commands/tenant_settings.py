"""A tenant's settings on the command line: options that set them, and how they are written down."""

from enum import StrEnum
from typing import Annotated

import typer

from redoma.tenant.v1.tenant_pb2 import BlockedPattern, ContentChecks, Tenant
from redoma_cli.commands.durations import duration_text, parse_duration
from redoma_cli.commands.output import short_name, short_time

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


def set_belongings(
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


def set_keeping(
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


def content_checks(max_input_tokens: int | None, refuse: list[str] | None, mask: list[str] | None) -> ContentChecks:
    """Gives the checks of texts that the options ask for."""
    patterns = [BlockedPattern(text=text, action=BlockedPattern.ACTION_REFUSE) for text in refuse or [] if text]
    patterns += [BlockedPattern(text=text, action=BlockedPattern.ACTION_MASK) for text in mask or [] if text]
    return ContentChecks(max_input_tokens=max_input_tokens or 0, blocked_patterns=patterns)


def state_text(tenant: Tenant) -> str:
    """Gives the state for people."""
    return Tenant.State.Name(tenant.state).removeprefix("STATE_").lower()


def isolation_text(tenant: Tenant) -> str:
    """Gives the isolation for people, as `--isolation` takes it."""
    return Tenant.Isolation.Name(tenant.isolation).removeprefix("ISOLATION_").lower().replace("_", "-")


def setting_rows(tenant: Tenant) -> list[tuple[str, str]]:
    """Gives what each setting is called and is, for people; empty for what is not set."""
    storage = Tenant.ContentStorage.Name(tenant.content_storage).removeprefix("CONTENT_STORAGE_").lower()
    retention = duration_text(tenant.retention.ToTimedelta()) if tenant.HasField("retention") else FOREVER
    checks = tenant.content_checks
    return [
        ("tenant", short_name(tenant.name)),
        ("name", tenant.display_name),
        ("state", state_text(tenant)),
        ("erased", short_time(tenant.purge_time)),
        ("plan", short_name(tenant.plan)),
        ("weight", str(tenant.weight)),
        ("isolation", isolation_text(tenant)),
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
