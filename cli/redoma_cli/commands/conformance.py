"""`redoma conformance`: does a deployment keep its tenants apart? Asked from outside."""

import asyncio
import json
import random
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from redoma_cli.client import ADMIN, choose_edge, choose_key, read_demo
from redoma_cli.commands.options import EdgeOption, JsonOption
from redoma_cli.commands.output import list_table
from redoma_cli.conformance.catalogue import all_checks, chosen
from redoma_cli.conformance.check import Check, Skipped, Unclear
from redoma_cli.conformance.edge import Edge, edge_at
from redoma_cli.conformance.progress import LiveProgress
from redoma_cli.conformance.report import as_json, as_junit, print_report
from redoma_cli.conformance.results import Report
from redoma_cli.conformance.runner import Runner
from redoma_cli.conformance.runner import clean as clean_up
from redoma_cli.conformance.settings import Settings
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

EPILOG = (
    "Examples:  redoma conformance  ·  redoma conformance --edge https://llm.example.com --junit report.xml  ·  "
    "redoma conformance --check revocation --check quota-exactness"
)
INTERRUPTED = 130
DEFAULTS = Settings()

AdminKeyOption = Annotated[
    str | None,
    typer.Option(
        "--admin-key",
        envvar="REDOMA_ADMIN_KEY",
        metavar="KEY",
        help="An operator's key; the local site's by default. Others on the machine can see options: set the variable.",
    ),
]
CheckOption = Annotated[
    list[str] | None, typer.Option("--check", metavar="NAME", help="Run this check alone; repeat for more.")
]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("conformance", epilog=EPILOG)(conformance)


def conformance(
    edge: EdgeOption = None,
    admin_key: AdminKeyOption = None,
    check: CheckOption = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and run none.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes minutes.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if anything was skipped or left out.")] = False,
    as_json_: JsonOption = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report to this file, too.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the throw-away tenants for a look at them.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Delete the throw-away tenants of former runs and run no check.")
    ] = False,
    parallel: Annotated[
        int, typer.Option(min=1, max=16, help="Checks at a time, where load does not falsify them.")
    ] = DEFAULTS.parallel,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="S", help="The longest one check may take, in seconds.")
    ] = DEFAULTS.check_timeout_s,
    model: Annotated[str, typer.Option("--model", help="The model to ask; the default one if left out.")] = "",
    ttft_factor: Annotated[
        float, typer.Option(min=1, help="How many times later a first token may come under another's flood.")
    ] = DEFAULTS.ttft_factor,
    flood_streams: Annotated[int, typer.Option(min=1, max=512, help="Streams of that flood.")] = DEFAULTS.flood_streams,
    revoke_margin: Annotated[
        float, typer.Option(min=0, metavar="S", help="What a revocation may take beyond its second, for the network.")
    ] = DEFAULTS.revoke_margin_s,
    settle: Annotated[
        float, typer.Option(min=1, metavar="S", help="How long the books may take until all is in them.")
    ] = DEFAULTS.settle_s,
    answer_timeout: Annotated[
        float, typer.Option(min=1, metavar="S", help="How long a short answer may take, its waiting included.")
    ] = DEFAULTS.answer_s,
    public_prefix_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens at the head of every prompt that all tenants share by declaration.")
    ] = DEFAULTS.public_prefix_tokens,
    max_stream: Annotated[
        float | None,
        typer.Option("--max-stream", min=1, metavar="S", help="The longest stream promised; waits for it to end."),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Model processes that answer.")] = DEFAULTS.replicas,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates to trust, PEM; the machine's by default.")
    ] = None,
) -> None:
    """Prove from outside that a deployment keeps its tenants apart.

    Makes throw-away tenants (conformance-…), tries to break out of them, and deletes them. Exits with 0 if every check
    passed or was skipped, else with 1.
    """
    checks = chosen(check or [])
    if list_checks:
        _list(checks)
        return
    context = make_context()
    demo = read_demo(context.home)
    where = edge_at(choose_edge(edge, demo, context.environ), ca_file)
    key = choose_key(admin_key, demo, ADMIN)
    if clean:
        _clean(context, where, key)
        return
    settings = Settings(
        parallel=parallel,
        check_timeout_s=timeout,
        quick=quick,
        model=model,
        ttft_factor=ttft_factor,
        flood_streams=flood_streams,
        revoke_margin_s=revoke_margin,
        settle_s=settle,
        answer_s=answer_timeout,
        public_prefix_tokens=public_prefix_tokens,
        max_stream_s=max_stream,
        replicas=replicas,
        keep=keep,
    )
    report = _run(context, where, key, settings, checks)
    if junit is not None:
        junit.write_bytes(as_junit(report))
    if as_json_:
        print(json.dumps(as_json(report, strict=strict), indent=2, ensure_ascii=False))
    else:
        print_report(report, context.out, marks=False)
    if not report.conforms(strict=strict):
        raise typer.Exit(1)


def _run(context: CommandContext, edge: Edge, key: str, settings: Settings, checks: tuple[Check, ...]) -> Report:
    # What stays of each check goes before the report, where a person reads on.
    with LiveProgress(context.err) as progress:
        # It chooses prompts, not secrets.
        runner = Runner(edge, key, settings, progress, random.Random())  # noqa: S311
        try:
            return asyncio.run(_interruptible(runner, checks))
        except (KeyboardInterrupt, asyncio.CancelledError):
            left = ", ".join(runner.left_tenants)
            mend = "Delete them with: redoma conformance --clean" if left else ""
            told = f"Throw-away tenants are left: {left}." if left else "The throw-away tenants are deleted."
            raise CliError(f"Interrupted. {told}", mend, INTERRUPTED) from None


async def _interruptible(runner: Runner, checks: tuple[Check, ...]) -> Report:
    """Runs; a SIGTERM ends it as Ctrl-C does, so that a cancelled CI job leaves no tenants."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await runner.run(checks)


def _clean(context: CommandContext, edge: Edge, key: str) -> None:
    try:
        gone, left = asyncio.run(clean_up(edge, key))
    except (Skipped, Unclear) as error:
        raise CliError(str(error)) from error
    context.out.print(f"Deleted {len(gone)} throw-away tenants.")
    if left:
        raise CliError(f"These could not be deleted: {', '.join(left)}.", "Try again in a moment.")


def _list(checks: tuple[Check, ...]) -> None:
    context = make_context()
    table = list_table(("check", "severity", "promise"), whole=("check", "severity"))
    for check in checks or all_checks():
        table.add_row(check.id, check.severity.value, escape(check.title))
    context.out.print(table)
