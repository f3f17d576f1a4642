"""`redoma quota`: what a tenant may use, and how much of it is used."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from redoma.tenant.v1 import quota_pb2 as pb
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.limits import (
    BudgetOption,
    DayOption,
    MonthOption,
    RequestsOption,
    StreamsOption,
    TokensOption,
    amount_text,
    change_limits,
    limit_name,
    limits_given,
)
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, TenantArgument
from redoma_cli.commands.output import list_table, print_json, short_name
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

BAR_CHARACTERS = 20


class AtLimitName(StrEnum):
    """What becomes of a running answer at a limit."""

    END = "end"
    FINISH = "finish"
    PLAN = "plan"


AT_LIMITS = {
    AtLimitName.END: pb.AT_LIMIT_END,
    AtLimitName.FINISH: pb.AT_LIMIT_FINISH,
    AtLimitName.PLAN: pb.AT_LIMIT_UNSPECIFIED,
}
OwnTenantArgument = Annotated[
    str, typer.Argument(metavar="TENANT", help="The tenant's id; left out, the key's own tenant.", show_default=False)
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="See and set what a tenant may use.",
        epilog="Example:  redoma quota show acme",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("show", epilog="Examples:  redoma quota show acme  ·  redoma quota show --json")(show)
    group.command(
        "set",
        epilog="Examples:  redoma quota set acme --tokens-per-day 2M --budget-per-month 25  ·  redoma quota set acme"
        " --tokens-per-day none",
    )(change)
    return group


def show(
    tenant: OwnTenantArgument = "", edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show each limit in force: what is used for good, what running calls hold, and when it is free again."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = pb.GetQuotaRequest(name=f"tenants/{tenant or '-'}/quota")
        _show(context, client.quotas.GetQuota(request, timeout=CALL_TIMEOUT_S).quota, as_json)


def change(
    tenant: TenantArgument,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_streams: StreamsOption = None,
    tokens_per_day: DayOption = None,
    tokens_per_month: MonthOption = None,
    budget_per_month: BudgetOption = None,
    at_limit: Annotated[
        AtLimitName | None,
        typer.Option(help="At a limit, running answers end, or may finish; or it is as the plan says."),
    ] = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a tenant's own limits, which replace its plan's one by one; `none` takes one away. Needs the admin key."""
    context = make_context()
    given = limits_given(
        requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, budget_per_month
    )
    quota = pb.Quota(name=f"tenants/{tenant}/quota", etag=etag)
    paths = [f"limits.{name}" for name, text in given.items() if text is not None]
    change_limits(quota.limits, given)
    if at_limit is not None:
        quota.at_limit = AT_LIMITS[at_limit]
        paths.append("at_limit")
    if not paths:
        raise CliError("There is nothing to change.", "Give a limit, such as --tokens-per-day 2M, or --at-limit.")
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = pb.UpdateQuotaRequest(quota=quota, update_mask=FieldMask(paths=paths))
        _show(context, client.quotas.UpdateQuota(request, timeout=CALL_TIMEOUT_S).quota, as_json)


def at_limit_text(at_limit: "pb.AtLimit.ValueType") -> str:
    """Says what becomes of running answers at a limit."""
    return {pb.AT_LIMIT_END: "end", pb.AT_LIMIT_FINISH: "may finish"}.get(at_limit, "as the plan says")


def limit_bar(state: pb.LimitState) -> str:
    """Draws how much of a limit is used (full) and held (light)."""
    if state.limit_value <= 0:
        return "█" * BAR_CHARACTERS
    used = min(BAR_CHARACTERS, -(-state.used * BAR_CHARACTERS // state.limit_value))
    both = min(BAR_CHARACTERS, -(-(state.used + state.reserved) * BAR_CHARACTERS // state.limit_value))
    return "█" * used + "▒" * (both - used) + "·" * (BAR_CHARACTERS - both)


def _show(context: CommandContext, quota: pb.Quota, as_json: bool) -> None:
    if as_json:
        print_json(quota)
        return
    if not quota.states:
        context.out.print(f"{short_tenant(quota)} has no limits; `redoma quota set` sets some.")
        return
    columns, amounts = ("limit", "allowed", "used", "held", "", "free again", "of"), ("allowed", "used", "held")
    table = list_table(columns, right=amounts, whole=columns)
    for state in quota.states:
        own = quota.limits.HasField(state.limit)  # type: ignore[arg-type]
        table.add_row(
            limit_name(state.limit),
            *(amount_text(state.limit, value) for value in (state.limit_value, state.used, state.reserved)),
            limit_bar(state) + (f" over {state.warning_percent} %" if state.warning_percent else ""),
            _reset(state),
            "tenant" if own else "plan",
        )
    context.out.print(table)
    context.out.print(f"[dim]Running answers at a limit: {at_limit_text(quota.at_limit)}.[/]")


def short_tenant(quota: pb.Quota) -> str:
    """Gives the tenant's id in a quota's name."""
    return short_name(quota.name.removesuffix("/quota"))


def _reset(state: pb.LimitState) -> str:
    if not state.HasField("reset_time") or not state.used:
        return ""
    moment = state.reset_time.ToDatetime(tzinfo=UTC)
    left = moment - datetime.now(UTC)
    if left.total_seconds() < 120:
        return f"in {max(0, round(left.total_seconds()))} s"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
