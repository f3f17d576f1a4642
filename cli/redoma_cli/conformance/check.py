"""What a check is, and what it writes down while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from redoma_cli.conformance.lab import Lab


class Severity(StrEnum):
    """How bad it is when a check fails."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"


class Skipped(Exception):
    """The check can't be run here; the text says why, one sentence."""


class Unclear(Exception):
    """The check could not find out; the text says what was in its way, one sentence."""


class Check(Protocol):
    """One promise that is put to the test.

    Attributes:
        id: What `--check` takes.
        title: The promise, one sentence.
        severity: How bad it is when it is broken.
        why: What that would mean for the people concerned, one sentence.
        alone: Whether others' load would falsify it, so that nothing else runs meanwhile.
    """

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def why(self) -> str: ...
    @property
    def alone(self) -> bool: ...

    async def run(self, lab: "Lab", probes: "Probes") -> None:
        """Tries it and writes down what it finds.

        Raises:
            Skipped: It can't be run here.
            Unclear: It could not find out.
        """


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        probe: What was tried.
        expected: What must happen.
        happened: What did happen.
    """

    probe: str
    expected: str
    happened: str


class Probes:
    """What one check tries and finds."""

    __slots__ = ("_on_step", "findings", "last_step", "left_out", "measured", "tried")

    def __init__(self, on_step: Callable[[str], None]) -> None:
        self._on_step = on_step
        self.tried = 0
        self.findings: list[Finding] = []
        self.left_out: list[str] = []
        self.measured: dict[str, str] = {}
        self.last_step = ""

    def step(self, text: str) -> None:
        """Says what comes next."""
        self.last_step = text
        self._on_step(text)

    def expect(self, holds: bool, probe: str, expected: str, happened: str) -> bool:
        """Counts a probe, notes a finding unless it holds, and gives back whether it does."""
        self.tried += 1
        if not holds:
            self.findings.append(Finding(probe, expected, happened))
        return holds

    def leave_out(self, reason: str) -> None:
        """Notes a part that can't be tried here, and why."""
        self.left_out.append(reason)

    def measure(self, name: str, value: str) -> None:
        """Keeps a figure for the report."""
        self.measured[name] = value
