"""`state.json`: how a private site stands, for the programs beside the provisioner that show it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path

from redoma_provisioner.trust.atomic_files import write_whole
from redoma_provisioner.trust.keeper import KeptTrust

STATE_FILE = "state.json"


class Phase(Enum):
    """How far a private site is."""

    # A token is being redeemed.
    JOINING = "JOINING"
    # It was not, and `error` says why; the site is in no network.
    REFUSED = "REFUSED"
    # The site has its certificates.
    JOINED = "JOINED"
    # And the public site is listening to it.
    LINKED = "LINKED"


@dataclass(frozen=True, slots=True)
class JoinStep:
    """One step of joining. `state` is pending, running, done or failed; `detail` is a sentence or empty."""

    title: str
    state: str = "pending"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JoinError:
    """Why joining failed, or why there is no link: a word for programs, a sentence for people, and what to do."""

    reason: str
    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class SiteStanding:
    """How a private site stands. Empty or None is what is not known yet."""

    phase: Phase
    site: str = ""
    driver: str = ""
    link_address: str = ""
    trust_sequence: int = 0
    linked_since: datetime | None = None
    certificate_expire_time: datetime | None = None
    steps: tuple[JoinStep, ...] = ()
    error: JoinError | None = None


class StandingFile:
    """Keeps how a site stands in its membership directory; its methods block on the disk."""

    __slots__ = ("_file",)

    def __init__(self, directory: Path) -> None:
        self._file = directory / STATE_FILE

    def read(self) -> SiteStanding | None:
        """Gives what is kept; None where nothing is that can be read."""
        try:
            return _standing(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, standing: SiteStanding, now: datetime) -> None:
        """Keeps how the site stands.

        Raises:
            OSError: The disk fails.
        """
        value = asdict(standing) | {
            "phase": standing.phase.value,
            "linked_since": _text(standing.linked_since),
            "certificate_expire_time": _text(standing.certificate_expire_time),
            "updated_at": _text(now),
        }
        write_whole(self._file, (json.dumps(value, indent=2) + "\n").encode())

    def update(self, kept: KeptTrust, linked_since: datetime | None, problem: JoinError | None, now: datetime) -> None:
        """Keeps how the site stands while it runs, unless the file says so: an attempt to join anew writes to it too.

        The steps of joining stay. `problem` is what keeps the site from being linked, where that is known.

        Raises:
            OSError: The disk fails.
        """
        former = self.read()
        standing = replace(
            standing_of(kept, former or SiteStanding(Phase.JOINED), linked_since),
            error=None if linked_since else problem,
        )
        if standing != former:
            self.write(standing, now)


def standing_of(kept: KeptTrust, former: SiteStanding, linked_since: datetime | None = None) -> SiteStanding:
    """Gives how a site stands that has joined."""
    return replace(
        former,
        phase=Phase.JOINED if linked_since is None else Phase.LINKED,
        site=kept.site,
        driver=kept.driver.value,
        link_address=kept.link_address,
        trust_sequence=kept.sequence,
        certificate_expire_time=kept.certificate_expire_time,
        linked_since=linked_since,
    )


def _standing(value: Mapping[str, object]) -> SiteStanding:
    error = value["error"]
    sequence = value["trust_sequence"]
    return SiteStanding(
        phase=Phase(value["phase"]),
        site=str(value["site"]),
        driver=str(value["driver"]),
        link_address=str(value["link_address"]),
        trust_sequence=sequence if isinstance(sequence, int) else 0,
        linked_since=_time(value["linked_since"]),
        certificate_expire_time=_time(value["certificate_expire_time"]),
        steps=tuple(JoinStep(**step) for step in _steps(value["steps"])),
        error=JoinError(**error) if isinstance(error, dict) else None,
    )


def _steps(value: object) -> Sequence[Mapping[str, str]]:
    return value if isinstance(value, list) else ()


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(value: object) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
