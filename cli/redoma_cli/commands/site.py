"""`redoma up`, `down`, `status`, `logs`, `doctor`: a whole site on this machine."""

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from redoma_cli.client import read_demo
from redoma_cli.commands.logs import follow_logs, known_logs
from redoma_cli.commands.options import JsonOption
from redoma_cli.commands.output import list_table
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import FAILED, CliError
from redoma_cli.local.demo import ensure_demo
from redoma_cli.local.doctor import Health, examine
from redoma_cli.local.home import Home
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import STOP_ORDER, pid_file
from redoma_cli.local.ports import LOOPBACK
from redoma_cli.local.process import await_unlisted
from redoma_cli.local.site import admin_key, check_disk, prepare_site, read_options
from redoma_cli.local.state import ProcessState, State, read_states
from redoma_cli.local.stop import UNLISTED_WAIT_S, SiteStopper
from redoma_cli.local.supervisor import NAME as SUPERVISOR
from redoma_cli.local.supervisor import STEP_ASIDE, STOP_GRACE_S, Supervisor, running_supervisor
from redoma_cli.local.up import SiteStarter, edge_ready, site_lock, stop_supervisor

COLOURS = {State.READY: "green", State.SILENT: "red", State.WAITING: "red"}


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("up", epilog="Example:  REDOMA_PORT=9000 redoma up")(up)
    app.command("down", epilog="Example:  redoma down --grace 5")(down)
    app.command("status", epilog="Example:  redoma status --json")(status)
    app.command("logs", epilog="Example:  redoma logs model -f -n 50")(logs)
    app.command("doctor", epilog="Example:  redoma doctor")(doctor)
    app.command("supervise", hidden=True)(supervise)


def up() -> None:
    """Start both sites on this machine, or adopt what runs, and print how to call them.

    Environment: REDOMA_HOME (state), REDOMA_PORT (the edge, 8080), REDOMA_MODEL (catalogue name or GGUF path),
    REDOMA_MAX_STREAM_S (longest stream, 600), REDOMA_CORS_ORIGINS, REDOMA_EDGE_REFLECTION.
    """
    context = make_context()
    started = time.monotonic()
    try:
        context.home.create()
    except OSError as error:
        mend = "Set REDOMA_HOME to a directory of your own on a disk with space."
        raise CliError(f"{context.home.root} can't be used: {error.strerror}.", mend) from error
    with site_lock(context.home):
        options = read_options(context.environ, context.home, context.checkout)
        check_disk(context.home)
        starter = SiteStarter(context.home, options.port, options.weights.path)
        starter.check_port()
        authority = DevelopmentAuthority(context.home.pki)
        key = admin_key(read_demo(context.home))
        specs = prepare_site(context.home, options, context.environ, authority, key)
        try:
            with Progress(context) as progress:
                ran_already = starter.start(specs, progress.show)
        except KeyboardInterrupt:
            context.err.print("Interrupted; what was started runs on. Go on: redoma up    Stop it: redoma down")
            raise
        edge = f"http://{LOOPBACK}:{options.port}"
        disabled = ensure_demo(context.home, edge, key)
    for tenant in disabled:
        context.err.print(f"Tenant {tenant} is disabled; enable it with: redoma tenant enable {tenant}")
    took_s = time.monotonic() - started
    context.out.print(
        f"[green]Redoma runs[/] at [bold]{edge}[/]" + (" (it ran already)" if ran_already else f" after {took_s:.1f} s")
    )
    print_how_to_call(context)


def print_how_to_call(context: CommandContext) -> None:
    """Prints the demo tenants' keys and a line to paste."""
    demo = read_demo(context.home)
    if demo is None:
        return
    context.out.print()
    for tenant, key in demo.api_keys.items():
        context.out.print(f"  {tenant:<8} {escape(key)}")
    first = next(iter(demo.api_keys.values()))
    body = json.dumps({"messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": True})
    words = ["curl", "-sN", f"{demo.edge}/v1/chat/completions", "-H", f"Authorization: Bearer {first}"]
    words += ["-H", "Content-Type: application/json", "-d", body]
    context.out.print("\nTry it:\n")
    # Plain, so that no terminal width or colour gets into what is pasted.
    print(f"  {shlex.join(words)}", flush=True)
    program = "redoma" if shutil.which("redoma") else _program(context)
    context.out.print(f"\nTalk to it:  {program} chat\nSee it:      {program} status\nStop it:     {program} down")


def _program(context: CommandContext) -> str:
    program = Path(sys.executable).with_name("redoma")
    try:
        return shlex.quote(str(program.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(program))


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


def status(as_json: JsonOption = False) -> None:
    """Show what runs. Exits with 1 unless everything is ready."""
    context = make_context()
    states = true_states(context.home)
    demo = read_demo(context.home)
    supervised = running_supervisor(context.home) is not None
    services = [state for name, state in states.items() if name != SUPERVISOR]
    ready = all(state.state is State.READY for state in services) and demo is not None
    ready = ready and edge_ready(demo.port if demo else 0)
    if as_json:
        content = {
            "ready": ready,
            "edge": demo.edge if demo else None,
            "supervised": supervised,
            "processes": [
                {
                    "name": name,
                    "state": state.state.value,
                    "pid": state.pid,
                    "since": state.since,
                    "restarts": state.restarts,
                }
                for name, state in states.items()
            ],
        }
        print(json.dumps(content, indent=2))
    else:
        context.out.print(process_table(states))
        if not supervised and any(state.alive for state in services):
            context.out.print("[yellow]No supervisor runs; adopt the processes with: redoma up[/]")
        if states[SUPERVISOR].state is State.SILENT:
            context.out.print("[yellow]The supervisor was halted by a signal; wake it with: redoma up[/]")
        context.out.print(
            f"Edge: {demo.edge} ({'ready' if ready else 'not ready'})" if demo else "Start it with: redoma up"
        )
    if not ready:
        raise typer.Exit(FAILED)


def true_states(home: Home) -> dict[str, ProcessState]:
    """Gives each process's state as the supervisor saw it last, corrected by whether the process exists."""
    known = read_states(home)
    states = {}
    for name in reversed(STOP_ORDER):
        state = known.get(name) or ProcessState(State.STOPPED, 0, 0, time.time(), 0)
        if state.pid and not state.alive:
            state = ProcessState(State.STOPPED, 0, 0, state.since, state.restarts)
        states[name] = state
    states[SUPERVISOR] = supervisor_state(home)
    return states


def supervisor_state(home: Home) -> ProcessState:
    """Gives the supervisor's own state."""
    identity = running_supervisor(home)
    if identity is None:
        return ProcessState(State.STOPPED, 0, 0, time.time(), 0)
    try:
        since = pid_file(home, SUPERVISOR).stat().st_mtime
    except OSError:
        since = time.time()
    state = State.SILENT if identity.halted() else State.READY
    return ProcessState(state, identity.pid, identity.start_ticks, since, 0)


def process_table(states: Mapping[str, ProcessState]) -> Table:
    """Lays the states out."""
    columns = ("process", "pid", "state", "for", "restarts")
    table = list_table(columns, right=("pid", "for", "restarts"), whole=columns)
    for name, state in states.items():
        colour = COLOURS.get(state.state, "yellow")
        lasted = short_duration(time.time() - state.since) if state.pid else ""
        table.add_row(name, str(state.pid or ""), f"[{colour}]{state.state.value}[/]", lasted, str(state.restarts))
    return table


def short_duration(seconds: float) -> str:
    """Gives a duration to its first two units, such as 3 h 12 min."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def logs(
    name: Annotated[str | None, typer.Argument(help="tenant, model, chat, edge or supervisor; all by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each to begin with.")] = 20,
) -> None:
    """Print what the processes log. No log holds a prompt, an answer or a key."""
    context = make_context()
    names = known_logs(context.home)
    if not names:
        raise CliError(f"There are no logs in {context.home.log}.", "Start the site with: redoma up")
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


class Progress:
    """Shows the processes' states while they start: a live table for a person, a line for each change otherwise."""

    def __init__(self, context: CommandContext) -> None:
        self._console = context.err
        self._live = (
            Live(console=context.err, transient=True, refresh_per_second=8) if context.err.is_terminal else None
        )
        self._told: dict[str, State] = {}

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Mapping[str, ProcessState]) -> None:
        """Shows the states as they are now."""
        if self._live:
            self._live.update(process_table(states))
            return
        for name, state in states.items():
            if self._told.get(name) is not state.state:
                self._told[name] = state.state
                self._console.print(f"{name}: {state.state.value}")
