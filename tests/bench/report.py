"""Findings as tables on the terminal and in Markdown, and as a file that later runs add to."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table as RichTable

from tests.bench.findings import Findings, Table
from tests.bench.machine import Machine

RESULTS = Path("build/bench/results.json")
# Of runs whose figures mean nothing, so that they never come among those that do.
QUICK_RESULTS = Path("build/bench/quick.json")
WIDTH = 160


@dataclass(frozen=True, slots=True)
class Entry:
    """The findings of one bench, when they were taken.

    Attributes:
        taken_at: ISO 8601.
        commit: Of the checkout.
    """

    taken_at: str
    commit: str
    rounds: int
    quick: bool
    findings: Findings

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Reads what `to_json` gave."""
        return cls(**{**content, "findings": Findings.from_json(content["findings"])})


@dataclass(frozen=True, slots=True)
class Results:
    """The last findings of each bench on one machine."""

    machine: Machine
    entries: Mapping[str, Entry]

    def save(self, path: Path) -> None:
        """Writes them in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": asdict(self.machine),
            "entries": {name: entry.to_json() for name, entry in self.entries.items()},
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)

    def with_entry(self, entry: Entry) -> "Results":
        """Gives the results with one bench's replaced."""
        return Results(self.machine, {**self.entries, entry.findings.name: entry})


def read_results(path: Path) -> Results | None:
    """Reads results; None when there are none, or only some of another form."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    if "entries" not in content:
        return None
    entries = {name: Entry.from_json(entry) for name, entry in content["entries"].items()}
    return Results(Machine(**content["machine"]), entries)


def results_of(machine: Machine, path: Path) -> Results:
    """Reads the results so far; those of another machine don't count."""
    results = read_results(path)
    return results if results is not None and results.machine == machine else Results(machine, {})


def make_console() -> Console:
    """Gives the terminal; what is not one is wide enough for any table."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def place_of(chosen: Path | None, quick: bool) -> Path:
    """Gives the file to keep results in, where none was chosen."""
    return chosen or (QUICK_RESULTS if quick else RESULTS)


def show(table: Table, console: Console) -> None:
    """Prints a table."""
    rich = RichTable(title=table.title, title_justify="left")
    for place, heading in enumerate(table.headings):
        rich.add_column(heading, justify="right" if place else "left")
    for row in table.rows:
        rich.add_row(*row)
    console.print(rich)


def grid(table: Table) -> str:
    """Gives a table in Markdown, without its title."""
    rule = "|".join(["---", *["---:"] * (len(table.headings) - 1)])
    rows = "".join(f"| {' | '.join(row)} |\n" for row in table.rows)
    return f"| {' | '.join(table.headings)} |\n|{rule}|\n{rows}"
