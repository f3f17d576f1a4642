"""What a run found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from redoma_cli.conformance.check import Finding


class Outcome(StrEnum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went.

    Attributes:
        id: The check's.
        title: The check's.
        severity: The check's.
        why: The check's.
        outcome: How it went.
        reason: Why it was skipped, or could not find out; empty otherwise.
        findings: What is not as it must be.
        left_out: Parts that could not be tried, each with its reason.
        measured: Figures it took, by name.
        tried: Probes it made.
        seconds: How long it took.
    """

    id: str
    title: str
    severity: str
    why: str
    outcome: Outcome
    reason: str
    findings: Sequence[Finding]
    left_out: Sequence[str]
    measured: Mapping[str, str]
    tried: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went.

    Attributes:
        edge: URL of the deployment.
        start_time: When it began.
        seconds: How long it took.
        results: Of each check, in the catalogue's order.
        left_tenants: Throw-away tenants that are still there.
    """

    edge: str
    start_time: datetime
    seconds: float
    results: Sequence[CheckResult]
    left_tenants: Sequence[str]

    def count(self, outcome: Outcome) -> int:
        """Counts the checks that went so."""
        return sum(result.outcome is outcome for result in self.results)

    def conforms(self, *, strict: bool) -> bool:
        """Says whether no check failed or could not find out; if `strict`, nor was any skipped or left anything out."""
        if any(result.outcome in (Outcome.FAILED, Outcome.ERROR) for result in self.results):
            return False
        whole = all(result.outcome is Outcome.PASSED and not result.left_out for result in self.results)
        return whole or not strict
