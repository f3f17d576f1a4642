"""`redoma down`, `logs`, `doctor`: what runs on this machine, with `redoma up` and `redoma status`."""

import contextlib
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from redoma_cli.commands import up
from redoma_cli.commands.drawing import PRIVATE_PREFIX
from redoma_cli.commands.logs import follow_logs, known_logs
from redoma_cli.commands.status import status
from redoma_cli.context import make_context
from redoma_cli.errors import FAILED, CliError
from redoma_cli.local.doctor import examine
from redoma_cli.local.finding import Health
from redoma_cli.local.home import Home
from redoma_cli.local.process import await_unlisted
from redoma_cli.local.stop import UNLISTED_WAIT_S, SiteStopper
from redoma_cli.local.supervisor import STEP_ASIDE, STOP_GRACE_S, Supervisor
from redoma_cli.local.up import site_lock, stop_supervisor


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    up.add_to(app)
    app.command("down", epilog="Example:  redoma down --grace 5")(down)
    app.command("status", epilog="Example:  redoma status --json")(status)
    app.command("logs", epilog="Example:  redoma logs model -f -n 50")(logs)
    app.command("doctor", epilog="Example:  redoma doctor")(doctor)
    app.command("supervise", hidden=True)(supervise)


def down(
    grace: Annotated[float, typer.Option(min=0, help="How long running streams may go on, in seconds.")] = STOP_GRACE_S,
) -> None:
    """Stop everything on this machine: no new calls, running answers may finish, then no process is left."""
    context = make_context()
    if not context.home.run.is_dir():
        context.out.print("Nothing runs.")
        return
    with site_lock(context.home):
        stopper = SiteStopper(context.home, lambda text: context.err.print(escape(text)))
        # Before the supervisor goes on: it would take them for dead.
        stopper.wake()
        supervisor = stop_supervisor(context.home, STEP_ASIDE)
        ended = stopper.stop(grace)
        await_unlisted(supervisor, UNLISTED_WAIT_S)
    context.out.print(
        f"Stopped {ended} processes; data and keys are kept in {context.home.root}." if ended else "Nothing runs."
    )


def logs(
    name: Annotated[
        str | None, typer.Argument(help="A process of `redoma status`, such as egress; all by default.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each to begin with.")] = 20,
) -> None:
    """Print what the processes log. No log holds a prompt, an answer or a key."""
    context = make_context()
    names = known_logs(context.home)
    if not names:
        raise CliError(f"There are no logs in {context.home.log}.", "Start the site with: redoma up")
    if name not in names and f"{PRIVATE_PREFIX}{name}" in names:
        name = f"{PRIVATE_PREFIX}{name}"
    if name is not None and name not in names:
        raise CliError(f"There is no log named {name}.", f"Choose among: {', '.join(names)}")
    follow_logs(context.home, [name] if name else names, lines, follow)


def doctor() -> None:
    """Check this machine and the site on it, and say what mends each trouble. Exits with 1 if there is any."""
    context = make_context()
    troubles = 0
    for finding in examine(context):
        mark = {Health.GOOD: "[green]✓[/]", Health.WARNING: "[yellow]![/]", Health.BAD: "[red]✗[/]"}[finding.health]
        context.out.print(f"{mark} {finding.subject:<13} {escape(finding.sentence)}")
        if finding.mend:
            context.out.print(f"{'':<16}[dim]→[/] {escape(finding.mend)}")
        troubles += finding.health is Health.BAD
    if troubles:
        raise typer.Exit(FAILED)


def supervise(home: Annotated[Path, typer.Option(help="The home whose processes to keep running.")]) -> None:
    """Keep the processes of a home running; started by `redoma up`."""

    def say(text: str) -> None:
        line = f"{datetime.now().astimezone().isoformat(timespec='milliseconds')} {text}\n"
        # On a full disk the line is lost, and nothing else.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), line.encode(errors="backslashreplace"))

    Supervisor(Home(home), say).run()
