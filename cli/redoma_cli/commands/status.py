"""`redoma status`: both sites and the link between them, with what is wrong."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import typer
from rich.console import RenderableType
from rich.markup import escape

from redoma.provisioner.v1.network_pb2 import WatchNetworkResponse
from redoma_cli.client import Demo, EdgeClient, read_demo
from redoma_cli.commands.drawing import DrawnSite, draw
from redoma_cli.commands.options import JsonOption
from redoma_cli.context import make_context
from redoma_cli.errors import FAILED, CliError
from redoma_cli.local.home import Home
from redoma_cli.local.membership import MembershipState
from redoma_cli.local.options import SiteChoice, Sites, planned_processes, read_choice
from redoma_cli.local.plan import PRIVATE, PUBLIC, pid_file, site_of
from redoma_cli.local.process import PidFile
from redoma_cli.local.standing import own_state
from redoma_cli.local.state import ProcessState, State, read_states
from redoma_cli.local.supervisor import NAME as SUPERVISOR
from redoma_cli.local.supervisor import running_supervisor
from redoma_cli.local.up import edge_ready
from redoma_cli.network import LinkHealth, health_of, health_of_state, links_of, private_sites, read_network

NETWORK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known of the sites.

    Attributes:
        choice: Which sites this machine runs.
        demo: What the local public site left for other programs; None without one.
        states: The processes of this machine, the supervisor too.
        supervised: Whether somebody restarts what dies.
        ready: Whether all is ready: every process, and a model that answers, or the link of a private site alone.
        membership: What the private site of this machine knows of itself.
        links: The private sites that the public one knows, and how each is linked; None if it can't be asked.
    """

    choice: SiteChoice
    demo: Demo | None
    states: Mapping[str, ProcessState]
    supervised: bool
    ready: bool
    membership: MembershipState
    links: tuple[LinkHealth, ...] | None


def status(as_json: JsonOption = False) -> None:
    """Show both sites and the link between them. Exits with 1 unless everything is ready."""
    context = make_context()
    seen = look(context.home)
    if as_json:
        print(json.dumps(as_plain(seen), indent=2))
    else:
        width = context.out.width if context.out.is_terminal else 200
        context.out.print(drawing(seen, width), soft_wrap=False)
        for sentence in troubles(seen):
            context.out.print(f"[yellow]{escape(sentence)}[/]")
        context.out.print(escape(_last_line(seen)))
    if not seen.ready:
        raise typer.Exit(FAILED)


def look(home: Home) -> Overview:
    """Looks at the processes, the edge, the network and the private site's files."""
    choice = read_choice(home) or SiteChoice(Sites.BOTH)
    states = true_states(home, choice)
    demo = read_demo(home) if choice.sites.has_public else None
    membership = own_state(home)
    services = [state for name, state in states.items() if name != SUPERVISOR]
    ready = all(state.state is State.READY for state in services)
    if choice.sites.has_public:
        ready = ready and demo is not None and edge_ready(demo.port)
    else:
        ready = ready and membership.linked
    return Overview(choice, demo, states, running_supervisor(home) is not None, ready, membership, _links(demo, states))


def _links(demo: Demo | None, states: Mapping[str, ProcessState]) -> tuple[LinkHealth, ...] | None:
    """Asks the public site of this machine for its network; None where nobody answers."""
    if demo is None or any(name in states and not states[name].alive for name in ("edge", "provisioner")):
        return None
    try:
        with EdgeClient(demo.edge, demo.admin_key) as client:
            view = read_network(client, NETWORK_TIMEOUT_S)
    except (grpc.RpcError, CliError):
        return None
    return network_links(view)


def network_links(view: WatchNetworkResponse) -> tuple[LinkHealth, ...]:
    """Says how each private site is linked."""
    return tuple(health_of(site, links_of(view, site)) for site in private_sites(view))


def drawing(seen: Overview, columns: int) -> RenderableType:
    """Draws the sites for a terminal of so many columns."""
    edge = seen.demo.edge if seen.demo else ""
    if seen.choice.sites.has_public:
        public = DrawnSite(f"public site {edge}".strip(), _of(seen.states, PUBLIC))
    else:
        public = DrawnSite("public site", {}, (seen.membership.link_address or "not known yet",))
    return draw(public, list(_private(seen)), columns, datetime.now(UTC))


def _private(seen: Overview) -> Iterable[tuple[LinkHealth | None, DrawnSite]]:
    own = seen.membership.site
    if seen.choice.sites.has_private:
        named = next((link for link in seen.links or () if link.site == own), None)
        link = named or (health_of_state(seen.membership) if seen.links is None or not own else None)
        yield link, DrawnSite(f"private site {own}".strip(), _of(seen.states, PRIVATE))
    for link in seen.links or ():
        if link.site != own or not seen.choice.sites.has_private:
            yield link, DrawnSite(f"private site {link.site}", {}, ("on another machine",))


def _of(states: Mapping[str, ProcessState], site: str) -> dict[str, ProcessState]:
    return {name: state for name, state in states.items() if name != SUPERVISOR and site_of(name) == site}


def troubles(seen: Overview) -> list[str]:
    """Says what is wrong besides what the drawing shows, each with what mends it."""
    services = [state for name, state in seen.states.items() if name != SUPERVISOR]
    told = []
    if not seen.supervised and any(state.alive for state in services):
        told.append("No supervisor runs; adopt the processes with: redoma up")
    if seen.states[SUPERVISOR].state is State.SILENT:
        told.append("The supervisor was halted by a signal; wake it with: redoma up")
    told += [
        f"Site {link.site or 'private'}: {link.sentence} {link.mend}".strip()
        for link, _ in _private(seen)
        if link is not None and not link.linked and link.sentence
    ]
    if seen.choice.sites is Sites.PUBLIC and seen.links == ():
        told.append("No private site has joined yet; let one in: redoma van grant --site NAME")
    return told


def _last_line(seen: Overview) -> str:
    if not seen.choice.sites.has_public:
        return f"Link: {'up' if seen.membership.linked else 'not up'} (redoma van status explains it)"
    if seen.demo is None:
        return "Start it with: redoma up"
    return f"Edge: {seen.demo.edge} ({'ready' if seen.ready else 'not ready'})"


def as_plain(seen: Overview) -> dict[str, object]:
    """Gives the same for a program."""
    return {
        "ready": seen.ready,
        "edge": seen.demo.edge if seen.demo else None,
        "supervised": seen.supervised,
        "sites": seen.choice.sites.value,
        "processes": [
            {
                "name": name,
                "site": None if name == SUPERVISOR else site_of(name),
                "state": state.state.value,
                "pid": state.pid,
                "since": state.since,
                "restarts": state.restarts,
            }
            for name, state in seen.states.items()
        ],
        "links": [
            {
                "site": link.site,
                "linked": link.linked,
                "state": link.word,
                "driver": link.driver,
                "tunnels": link.tunnels,
                "since": link.since.isoformat() if link.since else None,
                "message": link.sentence,
            }
            for link in (seen.links if seen.links is not None else (health_of_state(seen.membership),))
        ],
    }


def true_states(home: Home, choice: SiteChoice) -> dict[str, ProcessState]:
    """Gives each process's state as the supervisor saw it last, corrected by whether the process exists."""
    known = read_states(home)
    states = {}
    for name in planned_processes(choice):
        state = known.get(name) or ProcessState(State.STOPPED, 0, 0, time.time(), 0)
        if state.pid and not state.alive:
            state = ProcessState(State.STOPPED, 0, 0, state.since, state.restarts)
        elif state.state is State.READY and _halted(home, name):
            state = ProcessState(State.SILENT, state.pid, state.start_ticks, state.since, state.restarts)
        states[name] = state
    states[SUPERVISOR] = supervisor_state(home)
    return states


def _halted(home: Home, name: str) -> bool:
    identity = PidFile(pid_file(home, name)).alive()
    return identity is not None and identity.halted()


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
