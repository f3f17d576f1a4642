"""Looks for what keeps, or will keep, a site on this machine from running, and says what mends it."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from redoma.chat.v1.openai_pb2 import ListModelsRequest
from redoma_cli.client import CALL_TIMEOUT_S, EdgeClient, read_demo
from redoma_cli.context import CommandContext
from redoma_cli.errors import CliError
from redoma_cli.local.doctor_link import link
from redoma_cli.local.doctor_trust import certificates, clock
from redoma_cli.local.finding import Finding, Health
from redoma_cli.local.home import Home
from redoma_cli.local.options import (
    LEAST_FREE_DISK_BYTES,
    SiteChoice,
    SiteOptions,
    Sites,
    is_loopback,
    planned_processes,
    read_choice,
    read_options,
)
from redoma_cli.local.plan import PROXIES, pid_file
from redoma_cli.local.process import PidFile, ProcessIdentity
from redoma_cli.local.site import private_provisioner
from redoma_cli.local.state import ProcessState, State, read_states
from redoma_cli.local.supervisor import running_supervisor
from redoma_cli.local.up import check_port, edge_port_wanted, edge_ready, lost_data, van_port_wanted

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_BYTES = 1 << 30


def examine(context: CommandContext) -> Iterator[Finding]:
    """Looks at the machine first and at the running site last."""
    yield _python()
    yield _compiler()
    yield _disk(context)
    yield _memory()
    choice = read_choice(context.home) or SiteChoice(Sites.BOTH)
    sites = choice.sites
    try:
        options = read_options(context.environ, context.home, context.checkout, choice)
    except CliError as error:
        yield Finding("choices", Health.BAD, error.message, error.mend)
    else:
        yield from _choices(context, options)
    now = datetime.now(UTC)
    yield from certificates(context.home, sites, now)
    yield clock(context.home, sites, now)
    yield from _processes(context, planned_processes(choice))
    demo = read_demo(context.home)
    if PidFile(pid_file(context.home, "provisioner")).alive() or not sites.has_public:
        probe = private_provisioner(context.home, context.environ).link_problem
        yield from link(context.home, sites, demo, probe)
    if sites.has_public:
        yield from _edge(context, sites)


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


def _choices(context: CommandContext, options: SiteOptions) -> Iterator[Finding]:
    if options.weights is not None:
        yield Finding("model file", Health.GOOD, str(options.weights.path))
    yield Finding("envoy", Health.GOOD, str(options.envoy))
    if not options.choice.sites.has_public:
        return
    for subject, wanted in (
        ("port", edge_port_wanted(options.port)),
        ("VAN port", van_port_wanted(options.van_port, options.van_host)),
    ):
        try:
            check_port(context.home, wanted)
        except CliError as error:
            yield Finding(subject, Health.BAD, error.message, error.mend)
        else:
            yield Finding(subject, Health.GOOD, f"{wanted.port} is free, or this site's own")
    if options.choice.sites is Sites.PUBLIC and is_loopback(options.van_address):
        sentence = f"Tokens would name {options.van_address}, which no other machine reaches."
        yield Finding("VAN port", Health.BAD, sentence, "redoma up --site public --van-address HOST:PORT")


def _processes(context: CommandContext, wanted: Sequence[str]) -> Iterator[Finding]:
    states = read_states(context.home)
    alive = {name: PidFile(pid_file(context.home, name)).alive() for name in wanted}
    running = {name for name, identity in alive.items() if identity}
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
    for name in wanted:
        yield _process(context.home, name, alive[name], states.get(name))


def _process(home: Home, name: str, identity: ProcessIdentity | None, state: ProcessState | None) -> Finding:
    what = " (Envoy)" if name in PROXIES else ""
    if identity is None:
        sentence = f"{'Envoy d' if name in PROXIES else 'D'}oes not run."
        return Finding(name, Health.BAD, sentence, f"Start it with: redoma up; its log: redoma logs {name}")
    if lost_data(home, identity):
        sentence = "Its database was deleted while it ran; what it saves now is lost."
        return Finding(name, Health.BAD, sentence, "Start it with a new one: redoma up")
    if identity.halted():
        sentence = f"Halted by a signal, so nothing gets through it (pid {identity.pid}{what})."
        return Finding(
            name, Health.BAD, sentence, f"Wake it: kill -CONT {identity.pid}; the supervisor replaces it soon"
        )
    if state is not None and state.state is State.READY:
        restarts = f", restarted {state.restarts} times" if state.restarts else ""
        return Finding(name, Health.GOOD, f"ready, pid {state.pid}{restarts}")
    return Finding(name, Health.BAD, state.state.value if state else "unknown", f"Read its log: redoma logs {name}")


def _edge(context: CommandContext, sites: Sites) -> Iterator[Finding]:
    demo = read_demo(context.home)
    if demo is None:
        what = "is damaged" if context.home.demo_file.exists() else "is missing"
        yield Finding("readiness", Health.BAD, f"{context.home.demo_file} {what}.", "Make it anew with: redoma up")
        return
    if not edge_ready(demo.port):
        mend = "See which process is not ready above, and its log."
        if sites is Sites.PUBLIC and edge_ready(demo.port, "/healthz"):
            mend = "No model answers: see the links above, or let a private site in: redoma van grant --site NAME"
        yield Finding("readiness", Health.BAD, f"{demo.edge} is not ready.", mend)
        return
    yield Finding("readiness", Health.GOOD, f"{demo.edge} is ready, the model too")
    for tenant, key in demo.api_keys.items():
        try:
            with EdgeClient(demo.edge, key) as client, client.telling():
                client.openai.ListModels(ListModelsRequest(), timeout=CALL_TIMEOUT_S)
        except CliError as error:
            yield Finding("key", Health.BAD, f"{tenant}'s demo key: {error.message}", error.mend or "Run: redoma up")
        else:
            yield Finding("key", Health.GOOD, f"{tenant}'s demo key works")
