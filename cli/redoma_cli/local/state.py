"""What the supervisor knows of each process, in a file that `redoma up` and `redoma status` read."""

import enum
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from redoma_cli.local.home import Home, write_private
from redoma_cli.local.process import ProcessIdentity


class State(enum.StrEnum):
    """How a process is."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    SILENT = "does not answer"
    WAITING = "waits to start again"
    STOPPING = "stopping"
    STOPPED = "not running"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process as the supervisor saw it last.

    Attributes:
        state: How it is.
        pid: Its process id; 0 while there is none.
        start_ticks: When it started, in clock ticks since boot.
        since: When it entered this state, in seconds since the epoch.
        restarts: How often this supervisor found it dead.
    """

    state: State
    pid: int
    start_ticks: int
    since: float
    restarts: int

    @property
    def alive(self) -> bool:
        """Whether the process exists now."""
        return self.pid != 0 and ProcessIdentity(self.pid, self.start_ticks).alive()


def state_file(home: Home) -> Path:
    """Where the states lie."""
    return home.run / "state.json"


class Journal:
    """Writes the states down whenever one changes."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._lock = threading.Lock()
        self._states: dict[str, ProcessState] = {}
        self._written = False

    def record(self, name: str, state: State, identity: ProcessIdentity | None, restarts: int) -> None:
        """Takes note of a state; writes the file if it is news or the file is gone.

        A full disk does not stop the supervisor: the next record writes what this one could not.
        """
        pid, ticks = (identity.pid, identity.start_ticks) if identity else (0, 0)
        with self._lock:
            former = self._states.get(name)
            known = former is not None and (former.state, former.pid, former.restarts) == (state, pid, restarts)
            if known and self._written and self._file.exists():
                return
            if not known:
                self._states[name] = ProcessState(state, pid, ticks, self._now(), restarts)
            self._written = False
            content = json.dumps({name: asdict(value) for name, value in self._states.items()}, indent=2)
            try:
                write_private(self._file, (content + "\n").encode())
            except OSError:
                return
            self._written = True


def read_states(home: Home) -> dict[str, ProcessState]:
    """Gives the states by process name; empty when there are none."""
    try:
        entries = json.loads(state_file(home).read_text())
        return {name: ProcessState(**{**entry, "state": State(entry["state"])}) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
