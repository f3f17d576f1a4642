"""How private sites stand with this process: whether they answer, and what they say of themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.trust.connectors import ExposedConnector


@dataclass(frozen=True, slots=True)
class Report:
    """A private site at one moment, in its own words.

    Attributes:
        connectors: What it exposes.
        conditions: What it says of itself.
        connector_conditions: What it says of its connectors, by routing key.
        trust_sequence: Number of the last trust bundle that it keeps.
        certificate_expire_time: When the first of its certificates expires; None: it does not say.
        clock: Its clock.
        version: Version of its program.
    """

    connectors: tuple[ExposedConnector, ...]
    conditions: tuple[Condition, ...]
    connector_conditions: Mapping[str, tuple[Condition, ...]]
    trust_sequence: int
    certificate_expire_time: datetime | None
    clock: datetime
    version: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a private site stands with this process.

    Attributes:
        linked: Whether its provisioner answers now: a stream of reports is open.
        report: What it said last; None: nothing since this process started.
        heard_time: When it said that.
        problem: Why it does not answer, as a sentence; empty where it does.
    """

    linked: bool = False
    report: Report | None = None
    heard_time: datetime | None = None
    problem: str = ""


class Standings:
    """Keeps how each site stands, and tells when something that matters changed.

    Attributes:
        changes: How often that was.
    """

    __slots__ = ("_changed", "_standings", "changes")

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._changed: list[Callable[[str], None]] = []
        self.changes = 0

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Has `listener` called with a site's id whenever it says something new, or begins or ceases to answer."""
        self._changed.append(listener)

    def of(self, site: str) -> Standing:
        """Gives how a site stands."""
        return self._standings.get(site, _UNKNOWN)

    @property
    def linked(self) -> frozenset[str]:
        """The sites that answer now."""
        return frozenset(site for site, standing in self._standings.items() if standing.linked)

    def heard(self, site: str, report: Report, now: datetime) -> None:
        """Keeps what a site said."""
        former = self.of(site)
        self._standings[site] = Standing(True, report, now)
        if not former.linked or former.report is None or _told(former.report) != _told(report):
            self._tell(site)

    def lost(self, site: str, problem: str) -> None:
        """Keeps that a site does not answer."""
        former = self.of(site)
        self._standings[site] = Standing(False, former.report, former.heard_time, problem)
        if former.linked or former.problem != problem:
            self._tell(site)

    def forget(self, site: str) -> None:
        """Forgets a site that is not part of the network any more."""
        if self._standings.pop(site, None) is not None:
            self._tell(site)

    def _tell(self, site: str) -> None:
        self.changes += 1
        for listener in self._changed:
            listener(site)


_UNKNOWN = Standing()


def _told(report: Report) -> tuple[object, ...]:
    """Gives all of a report but its clock, which is another each time."""
    return (
        report.connectors,
        report.conditions,
        report.connector_conditions,
        report.trust_sequence,
        report.certificate_expire_time,
        report.version,
    )
