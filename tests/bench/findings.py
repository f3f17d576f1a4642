"""What a bench is told and what it gives back: tables for people, goals, and data for plots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a bench is to run.

    Attributes:
        model: The GGUF file to measure with.
        rounds: How often each thing is measured, in turns; medians count.
        quick: Only see that it works: a few seconds, and figures that mean nothing.
        tell: Says what is going on.
    """

    model: Path
    rounds: int
    quick: bool
    tell: Callable[[str], None]

    def pick(self, ordinary: T, quick: T) -> T:
        """Gives the second when the run is quick."""
        return quick if self.quick else ordinary


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first column is to the left, the others to the right."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that must be at least, or at most, a bound."""

    text: str
    value: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the figure keeps to its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def bound_text(self) -> str:
        """The bound as people write it."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a bench found.

    Attributes:
        name: Of the bench.
        about: What was measured and how, in a paragraph.
        data: Numbers for plots and for whoever compares runs, JSON.
    """

    name: str
    about: str
    tables: tuple[Table, ...]
    goals: tuple[Goal, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Reads what `to_json` gave."""
        tables = tuple(
            Table(table["title"], tuple(table["headings"]), tuple(tuple(row) for row in table["rows"]))
            for table in content["tables"]
        )
        goals = tuple(Goal(**goal) for goal in content["goals"])
        return cls(content["name"], content["about"], tables, goals, content["data"])


def goals_table(findings: Sequence[Findings]) -> Table:
    """Puts all goals into one table."""
    rows = tuple(
        (goal.text, f"{goal.value:.3g}", goal.bound_text, "yes" if goal.met else "NO")
        for found in findings
        for goal in found.goals
    )
    return Table("Goals", ("goal", "figure", "bound", "met"), rows)
