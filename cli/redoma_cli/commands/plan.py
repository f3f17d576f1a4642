"""`redoma plan`: settings that many tenants have."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.markup import escape

from redoma.tenant.v1 import quota_pb2 as pb
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.limits import (
    BudgetOption,
    DayOption,
    MonthOption,
    RequestsOption,
    StreamsOption,
    TokensOption,
    change_limits,
    limit_rows,
    limits_given,
)
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, YesOption
from redoma_cli.commands.output import list_table, print_json, settings_table, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.commands.quota import at_limit_text
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError


class AtLimitName(StrEnum):
    """What becomes of a running answer at a limit."""

    END = "end"
    FINISH = "finish"


AT_LIMITS = {AtLimitName.END: pb.AT_LIMIT_END, AtLimitName.FINISH: pb.AT_LIMIT_FINISH}
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id, such as gold.")]
NameOption = Annotated[str | None, typer.Option("--name", help="What people call it.")]
WeightOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Share of the model of each of its tenants, relative to others'.")
]
AtLimitOption = Annotated[
    AtLimitName | None, typer.Option(help="Whether running answers end at a limit, the default, or may finish.")
]
WarnOption = Annotated[
    list[int] | None,
    typer.Option("--warn-at", min=1, max=100, help="A percentage at which a warning is given; repeat for more."),
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Administer plans; needs the admin key.",
        epilog="Example:  redoma plan list",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    create_example = "redoma plan create gold --weight 200 --tokens-per-month 50M --budget-per-month 100 --warn-at 90"
    group.command("create", epilog=f"Example:  {create_example}")(create)
    group.command("list", epilog="Example:  redoma plan list --json")(list_all)
    group.command("show", epilog="Example:  redoma plan show gold")(show)
    group.command("update", epilog="Example:  redoma plan update gold --tokens-per-month none")(update)
    group.command("delete", epilog="Example:  redoma plan delete gold --yes")(delete)
    return group


def create(
    plan: PlanArgument,
    name: NameOption = None,
    weight: WeightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_streams: StreamsOption = None,
    tokens_per_day: DayOption = None,
    tokens_per_month: MonthOption = None,
    budget_per_month: BudgetOption = None,
    at_limit: AtLimitOption = None,
    warn_at: WarnOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a plan. Give it to a tenant with `redoma tenant update TENANT --plan PLAN`."""
    context = make_context()
    given = limits_given(
        requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, budget_per_month
    )
    settings, _ = _settings(plan if name is None else name, weight, given, at_limit, warn_at)
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = pb.CreatePlanRequest(plan_id=plan, plan=settings)
        _show(context, client.quotas.CreatePlan(request, timeout=CALL_TIMEOUT_S).plan, as_json)


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the plans."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        plans = list_items(client.quotas.ListPlans, pb.ListPlansRequest(), lambda page: page.plans)
    if as_json:
        print_json(plans)
        return
    table = list_table(("plan", "name", "weight", "limits", "at a limit"), right=("weight",))
    for plan in plans:
        limits = ", ".join(f"{value} {limit}" for limit, value in limit_rows(plan.limits)) or "none"
        table.add_row(
            short_name(plan.name), escape(plan.display_name), str(plan.weight), limits, at_limit_text(plan.at_limit)
        )
    context.out.print(table)


def show(plan: PlanArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a plan."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = pb.GetPlanRequest(name=f"plans/{plan}")
        _show(context, client.quotas.GetPlan(request, timeout=CALL_TIMEOUT_S).plan, as_json)


def update(
    plan: PlanArgument,
    name: NameOption = None,
    weight: WeightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_streams: StreamsOption = None,
    tokens_per_day: DayOption = None,
    tokens_per_month: MonthOption = None,
    budget_per_month: BudgetOption = None,
    at_limit: AtLimitOption = None,
    warn_at: WarnOption = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a plan; its tenants have it at once. `none` takes a limit away."""
    context = make_context()
    given = limits_given(
        requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, budget_per_month
    )
    settings, paths = _settings(name, weight, given, at_limit, warn_at)
    settings.name, settings.etag = f"plans/{plan}", etag
    if not paths:
        raise CliError("There is nothing to change.", "Give --name, --weight, a limit, --at-limit or --warn-at.")
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = pb.UpdatePlanRequest(plan=settings, update_mask=FieldMask(paths=paths))
        _show(context, client.quotas.UpdatePlan(request, timeout=CALL_TIMEOUT_S).plan, as_json)


def delete(plan: PlanArgument, yes: YesOption = False, edge: EdgeOption = None, key: KeyOption = None) -> None:
    """Delete a plan that no tenant has."""
    context = make_context()
    confirm(f"Delete the plan {plan}?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling():
        client.quotas.DeletePlan(pb.DeletePlanRequest(name=f"plans/{plan}"), timeout=CALL_TIMEOUT_S)
    context.out.print(f"Deleted {plan}.")


def _settings(
    name: str | None,
    weight: int | None,
    limits: Mapping[str, str | None],
    at_limit: AtLimitName | None,
    warn_at: list[int] | None,
) -> tuple[pb.Plan, list[str]]:
    """Gives the settings, and the paths of those that are given."""
    settings = pb.Plan(display_name=name or "", weight=weight or 0, warning_percents=sorted(warn_at or []))
    change_limits(settings.limits, limits)
    if at_limit is not None:
        settings.at_limit = AT_LIMITS[at_limit]
    others = {"display_name": name, "weight": weight, "at_limit": at_limit, "warning_percents": warn_at}
    paths = [path for path, value in others.items() if value is not None]
    return settings, paths + [f"limits.{limit}" for limit, text in limits.items() if text is not None]


def _show(context: CommandContext, plan: pb.Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    rows = (
        ("plan", short_name(plan.name)),
        ("name", plan.display_name),
        ("weight", str(plan.weight)),
        *limit_rows(plan.limits),
        ("at a limit", f"running answers {at_limit_text(plan.at_limit)}"),
        ("warnings at", ", ".join(f"{percent} %" for percent in plan.warning_percents)),
        ("created", short_time(plan.create_time)),
        ("etag", plan.etag),
    )
    context.out.print(settings_table(rows))
