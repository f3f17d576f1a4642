"""Looks for what keeps, or will keep, a site on this machine from running, and says what mends it."""

import enum
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from redoma.chat.v1.openai_pb2 import ListModelsRequest
from redoma_cli.client import CALL_TIMEOUT_S, EdgeClient, read_demo
from redoma_cli.context import CommandContext
from redoma_cli.errors import CliError
from redoma_cli.local.pki import SITES, DevelopmentAuthority
from redoma_cli.local.plan import STOP_ORDER, pid_file
from redoma_cli.local.process import PidFile, holds_deleted_file
from redoma_cli.local.site import LEAST_FREE_DISK_BYTES, SiteOptions, read_options
from redoma_cli.local.state import State, read_states
from redoma_cli.local.supervisor import running_supervisor
from redoma_cli.local.up import SiteStarter, edge_ready

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_BYTES = 1 << 30
EXPIRES_SOON = timedelta(days=14)


class Health(enum.Enum):
    """How something is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: What was looked at.
        health: How it is.
        sentence: What was found.
        mend: What to do about it; empty when nothing needs doing.
    """

    subject: str
    health: Health
    sentence: str
    mend: str = ""


def examine(context: CommandContext) -> Iterator[Finding]:
    """Looks at the machine first and at the running site last."""
    yield _python()
    yield _compiler()
    yield _disk(context)
    yield _memory()
    try:
        options = read_options(context.environ, context.home, context.checkout)
        yield Finding("model file", Health.GOOD, str(options.weights.path))
        yield Finding("envoy", Health.GOOD, str(options.envoy))
        yield _port(context, options)
    except CliError as error:
        yield Finding("choices", Health.BAD, error.message, error.mend)
    yield from _certificates(context)
    yield from _processes(context)
    yield from _edge(context)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < LEAST_PYTHON:
        return Finding("python", Health.BAD, f"{version} is too old.", "Install Python 3.11 or newer.")
    return Finding("python", Health.GOOD, version)


def _compiler() -> Finding:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        mend = "Install one before the next `make up` that builds llama.cpp: apt-get install g++"
        return Finding("compiler", Health.WARNING, "No C++ compiler is installed.", mend)
    return Finding("compiler", Health.GOOD, compiler)


def _disk(context: CommandContext) -> Finding:
    place = next(place for place in (context.home.root, *context.home.root.parents) if place.exists())
    free = shutil.disk_usage(place).free
    sentence = f"{free / (1 << 30):.1f} GiB free at {place}"
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        mend = "Set REDOMA_HOME to a directory of your own."
        return Finding("disk", Health.BAD, f"{context.home.root} can't be written to.", mend)
    if free < LEAST_FREE_DISK_BYTES:
        return Finding("disk", Health.BAD, sentence, "Free some space, or set REDOMA_HOME to another disk.")
    return Finding("disk", Health.GOOD, sentence)


def _memory() -> Finding:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        available = int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        pass
    sentence = f"{available / (1 << 30):.1f} GiB available"
    if available < LEAST_MEMORY_BYTES:
        return Finding(
            "memory", Health.WARNING, sentence, "End other programs, or serve a smaller model (REDOMA_MODEL)."
        )
    return Finding("memory", Health.GOOD, sentence)


def _port(context: CommandContext, options: SiteOptions) -> Finding:
    try:
        SiteStarter(context.home, options.port, options.weights.path).check_port()
    except CliError as error:
        return Finding("port", Health.BAD, error.message, error.mend)
    return Finding("port", Health.GOOD, f"{options.port} is free, or this site's own")


def _certificates(context: CommandContext) -> Iterator[Finding]:
    authority = DevelopmentAuthority(context.home.pki)
    now = datetime.now(UTC)
    soonest: datetime | None = None
    for service in SITES:
        try:
            expiry = authority.expiry(service)
        except OSError:
            yield Finding("certificates", Health.WARNING, f"{service} has none yet.", "Make them with: redoma up")
            return
        except ValueError:
            yield Finding("certificates", Health.BAD, f"{service}'s is damaged.", "Make it anew with: redoma up")
            return
        soonest = expiry if soonest is None else min(soonest, expiry)
    if soonest is None:
        return
    sentence = f"valid until {soonest:%Y-%m-%d}"
    if soonest - now < EXPIRES_SOON:
        yield Finding("certificates", Health.BAD, sentence, "Renew them with: redoma up")
    else:
        yield Finding("certificates", Health.GOOD, sentence)


def _processes(context: CommandContext) -> Iterator[Finding]:
    states = read_states(context.home)
    running = {name for name in STOP_ORDER if PidFile(pid_file(context.home, name)).alive()}
    if not running:
        yield Finding("processes", Health.BAD, "Nothing runs.", "Start it with: redoma up")
        return
    supervisor = running_supervisor(context.home)
    if supervisor is not None and supervisor.halted():
        sentence = "It was halted by a signal, so nobody restarts what dies."
        yield Finding("supervisor", Health.BAD, sentence, "Wake it with: redoma up")
    if supervisor is None:
        mend = "Start one, which adopts what runs, with: redoma up"
        yield Finding("supervisor", Health.BAD, "No supervisor runs, so nobody restarts what dies.", mend)
    for name in reversed(STOP_ORDER):
        state = states.get(name)
        identity = PidFile(pid_file(context.home, name)).alive()
        if identity is not None and holds_deleted_file(identity.pid, context.home.data):
            sentence = "Its database was deleted while it ran; what it saves now is lost."
            yield Finding(name, Health.BAD, sentence, "Start it with a new one: redoma up")
        elif name in running and state is not None and state.state is State.READY:
            restarts = f", restarted {state.restarts} times" if state.restarts else ""
            yield Finding(name, Health.GOOD, f"ready, pid {state.pid}{restarts}")
        else:
            now = state.state.value if state is not None and name in running else "does not run"
            yield Finding(name, Health.BAD, now, f"Read its log: redoma logs {name}")


def _edge(context: CommandContext) -> Iterator[Finding]:
    demo = read_demo(context.home)
    if demo is None:
        what = "is damaged" if context.home.demo_file.exists() else "is missing"
        yield Finding("edge", Health.BAD, f"{context.home.demo_file} {what}.", "Make it anew with: redoma up")
        return
    if not edge_ready(demo.port):
        mend = "See which process is not ready above, and its log."
        yield Finding("edge", Health.BAD, f"{demo.edge} is not ready.", mend)
        return
    yield Finding("edge", Health.GOOD, f"{demo.edge} is ready, the model too")
    for tenant, key in demo.api_keys.items():
        try:
            with EdgeClient(demo.edge, key) as client, client.telling():
                client.openai.ListModels(ListModelsRequest(), timeout=CALL_TIMEOUT_S)
        except CliError as error:
            yield Finding("key", Health.BAD, f"{tenant}'s demo key: {error.message}", error.mend or "Run: redoma up")
        else:
            yield Finding("key", Health.GOOD, f"{tenant}'s demo key works")
