"""Draws the sites and their links: side by side where the terminal is wide, one below the other where it is not."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from redoma_cli.commands.durations import short_duration
from redoma_cli.commands.output import list_table
from redoma_cli.local.state import ProcessState, State
from redoma_cli.network import LinkHealth

COLOURS = {State.READY: "green", State.SILENT: "red", State.WAITING: "red", State.STOPPED: "red"}
WIDE_COLUMNS = 110
PRIVATE_PREFIX = "private-"


@dataclass(frozen=True, slots=True)
class DrawnSite:
    """A site as it is drawn.

    Attributes:
        title: What stands above it.
        processes: Its processes, where it runs on this machine.
        told: Lines instead of processes, where it does not.
    """

    title: str
    processes: Mapping[str, ProcessState]
    told: Sequence[str] = ()


def draw(
    public: DrawnSite, private: Sequence[tuple[LinkHealth | None, DrawnSite]], columns: int, now: datetime
) -> RenderableType:
    """Gives a drawing for a terminal of so many columns. A link of None is one that nobody knows of."""
    left = _panel(public)
    if not private:
        return left
    if columns < WIDE_COLUMNS:
        stacked: list[RenderableType] = [left]
        for link, site in private:
            stacked += [Text.from_markup(f"     ║ {_link_line(link, now)}"), _panel(site)]
        return Group(*stacked)
    right = Table.grid(padding=(0, 1))
    for link, site in private:
        right.add_row(_link_beside(link, now), _panel(site))
    both = Table.grid(padding=(0, 1))
    both.add_row(left, right)
    return both


def process_table(states: Mapping[str, ProcessState]) -> Table:
    """Lays the states of processes out."""
    columns = ("process", "pid", "state", "for", "restarts")
    table = list_table(columns, right=("pid", "for", "restarts"), whole=columns)
    for name, state in states.items():
        colour = COLOURS.get(state.state, "yellow")
        lasted = short_duration(time.time() - state.since) if state.pid else ""
        table.add_row(name, str(state.pid or ""), f"[{colour}]{state.state.value}[/]", lasted, str(state.restarts))
    return table


def _panel(site: DrawnSite) -> Panel:
    content: RenderableType = process_table(
        {name.removeprefix(PRIVATE_PREFIX): state for name, state in site.processes.items()}
    )
    if site.told:
        lines = Text("\n".join(site.told))
        content = Group(content, lines) if site.processes else lines
    return Panel(content, title=escape(site.title), title_align="left", expand=False, border_style="dim")


def _link_beside(link: LinkHealth | None, now: datetime) -> Text:
    line = "[red]══ ✗ ══[/]" if link is None or not link.linked else "[green]◄══════[/]"
    return Text.from_markup(f"\n{line}\n{_word(link)}\n[dim]{escape(link_detail(link, now))}[/]")


def _link_line(link: LinkHealth | None, now: datetime) -> str:
    return f"{_word(link)} [dim]{escape(link_detail(link, now))}[/]"


def _word(link: LinkHealth | None) -> str:
    if link is None:
        return "[yellow]unknown[/]"
    return f"[{'green' if link.linked else 'red'}]{link.word}[/]"


def link_detail(link: LinkHealth | None, now: datetime) -> str:
    """Gives what carries a link, how many tunnels it has, and for how long it is up."""
    if link is None:
        return ""
    parts = [link.driver]
    if link.tunnels:
        parts.append(f"{link.tunnels} tunnel{'s' if link.tunnels > 1 else ''}")
    if link.since is not None:
        parts.append(f"for {short_duration((now - link.since).total_seconds())}")
    return " · ".join(part for part in parts if part)
