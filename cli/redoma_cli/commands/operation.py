"""`redoma operation`: work that goes on after the call that asked for it."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from redoma.provisioner.v1.operation_pb2 import (
    CancelOperationRequest,
    GetOperationRequest,
    ListOperationsRequest,
    Operation,
    WatchOperationRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json, settings_table, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import FAILED, VAN_MENDS, CliError

OperationArgument = Annotated[
    str, typer.Argument(metavar="OPERATION", help="Its id; `redoma operation list` shows them.")
]
ENDED = (Operation.STATE_SUCCEEDED, Operation.STATE_FAILED, Operation.STATE_CANCELLED)
COLOURS = {
    Operation.STATE_SUCCEEDED: "green",
    Operation.STATE_FAILED: "red",
    Operation.STATE_CANCELLED: "dim",
    Operation.STATE_RUNNING: "yellow",
}


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="See, follow and cancel work that takes longer than a call, such as a rotation.",
        epilog="Examples:  redoma operation list  ·  redoma operation watch 0193a2",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("list", epilog="Example:  redoma operation list --target sites/hospital-a")(list_all)
    group.command("get", epilog="Example:  redoma operation get 0193a2 --json")(get)
    group.command("watch", epilog="Example:  redoma operation watch 0193a2")(watch)
    group.command("cancel", epilog="Example:  redoma operation cancel 0193a2")(cancel)
    return group


def list_all(
    target: Annotated[str, typer.Option("--target", help="Only those of this, such as sites/hospital-a.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List operations, the newest first."""
    context = make_context()
    request = ListOperationsRequest(target=target)
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        found = list_items(client.operations.ListOperations, request, lambda page: page.operations, limit)
    if as_json:
        print_json(found)
        return
    table = list_table(
        ("operation", "kind", "target", "state", "step", "asked for", "ended", "by"), whole=("operation",)
    )
    for operation in found:
        table.add_row(
            short_name(operation.name),
            operation.kind,
            operation.target,
            _coloured(operation),
            escape(current_step(operation)),
            short_time(operation.create_time),
            short_time(operation.end_time),
            escape(operation.creator),
        )
    context.out.print(table)


def get(
    operation: OperationArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show an operation and its steps."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        request = GetOperationRequest(name=_name(operation))
        found = client.operations.GetOperation(request, timeout=CALL_TIMEOUT_S).operation
    if as_json:
        print_json(found)
        return
    rows = [("operation", short_name(found.name)), ("kind", found.kind), ("target", found.target)]
    rows += [("state", state_word(found.state)), ("asked for", short_time(found.create_time)), ("by", found.creator)]
    rows += [("ended", short_time(found.end_time)), ("error", found.error.message)]
    rows += [(f"step {number}", _step_text(found, number - 1)) for number in range(1, len(found.steps) + 1)]
    context.out.print(settings_table(rows))


def watch(
    operation: OperationArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Follow an operation until it has ended. Exits with 1 unless it has done what was asked."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        ended = follow(context, client, Operation(name=_name(operation)))
    if as_json:
        print_json(ended)
    else:
        context.out.print(f"{escape(ended.kind)} of {escape(ended.target)}: {_coloured(ended)}")


def cancel(
    operation: OperationArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Ask an operation to end at its next safe point."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling(VAN_MENDS):
        request = CancelOperationRequest(name=_name(operation))
        asked = client.operations.CancelOperation(request, timeout=CALL_TIMEOUT_S).operation
    if as_json:
        print_json(asked)
    elif asked.state in ENDED:
        context.out.print(f"It has ended already: {_coloured(asked)}.")
    else:
        context.out.print(f"Asked. See it end: redoma operation watch {escape(short_name(asked.name))}")


def follow(context: CommandContext, client: EdgeClient, operation: Operation) -> Operation:
    """Shows an operation's steps as bars until it has ended, and gives it then.

    Raises:
        CliError: It failed or was cancelled.
        grpc.RpcError: It can't be followed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    last = operation
    with Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress:
        bars: dict[int, TaskID] = {}
        for answer in client.operations.WatchOperation(WatchOperationRequest(name=operation.name)):
            last = answer.operation
            for number, step in enumerate(last.steps):
                if number not in bars:
                    bars[number] = progress.add_task(escape(step.title), total=1.0, count="")
                total = float(step.total or 1)
                done = total if step.state == Operation.STATE_SUCCEEDED else float(min(step.done, step.total))
                progress.update(bars[number], completed=done, total=total, count=_count(last, number))
    if last.state == Operation.STATE_SUCCEEDED:
        return last
    if last.state == Operation.STATE_CANCELLED:
        raise CliError(f"{last.kind} of {last.target} was cancelled.", "", FAILED)
    if last.state == Operation.STATE_FAILED:
        raise CliError(
            f"{last.kind} of {last.target} failed: {last.error.message}", VAN_MENDS.get(last.error.reason, "")
        )
    mend = f"redoma operation watch {short_name(last.name)}"
    raise CliError("The provisioner stopped telling how far it is; the operation goes on.", mend)


def current_step(operation: Operation) -> str:
    """Gives the step that runs or failed; empty where none does."""
    states = (Operation.STATE_RUNNING, Operation.STATE_FAILED)
    return next((step.title for step in operation.steps if step.state in states), "")


def state_word(state: "Operation.State.ValueType") -> str:
    """Gives a state in a word."""
    return Operation.State.Name(state).removeprefix("STATE_").lower()


def _coloured(operation: Operation) -> str:
    return f"[{COLOURS.get(operation.state, 'default')}]{state_word(operation.state)}[/]"


def _step_text(operation: Operation, number: int) -> str:
    step = operation.steps[number]
    count = f" {_count(operation, number)}" if step.total else ""
    return f"{step.title}: {state_word(step.state)}{count}"


def _count(operation: Operation, number: int) -> str:
    step = operation.steps[number]
    if not step.total:
        return state_word(step.state)
    return f"{step.done:,}/{step.total:,} {step.unit}".rstrip()


def _name(operation: str) -> str:
    return f"operations/{operation.removeprefix('operations/')}"
