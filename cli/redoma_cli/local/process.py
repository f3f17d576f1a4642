"""Processes held by more than a number: a pid is taken again by others, a pid with its start time is not."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from redoma_cli.local.home import PRIVATE_FILE, write_private

STATE_FIELD, START_TIME_FIELD = 0, 19
ZOMBIE_STATES = ("Z", "X")
HALTED_STATES = ("T", "t")
UNLISTED_POLL_S = 0.02
SOCKET_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
SOCKET_ADDRESS_FIELD, SOCKET_STATE_FIELD, SOCKET_INODE_FIELD = 1, 3, 9
LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process for good, on this boot.

    Attributes:
        pid: Its process id.
        start_ticks: When it started, in clock ticks since boot.
    """

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process exists and has not ended."""
        return start_ticks(self.pid) == self.start_ticks

    def halted(self) -> bool:
        """Whether it exists but was stopped by a signal or a debugger, and does nothing until it is told to go on."""
        entry = _table_entry(self.pid)
        return entry is not None and entry[1] == self.start_ticks and entry[0] in HALTED_STATES

    def listed(self) -> bool:
        """Whether it is in the process table, where one that has ended stays until its parent has taken note."""
        entry = _table_entry(self.pid)
        return entry is not None and entry[1] == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """Gives when the process started, in clock ticks since boot; None if there is none or it has ended."""
    entry = _table_entry(pid)
    return None if entry is None or entry[0] in ZOMBIE_STATES else entry[1]


def holds_deleted_file(pid: int, directory: Path) -> bool:
    """Whether the process still has a file open that was deleted from `directory`: what it writes there is lost."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith(f"{directory}/") and target.endswith(" (deleted)"):
                return True
    return False


def listens_on(pid: int, port: int) -> bool:
    """Whether the process listens on a TCP port, of any interface."""
    sockets = {f"socket:[{inode}]" for table in SOCKET_TABLES for inode in _listeners(table, port)}
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in sockets:
                return True
    return False


def _listeners(table: Path, port: int) -> list[str]:
    """Gives the inodes of the sockets that listen on a port."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [
        row[SOCKET_INODE_FIELD]
        for row in rows
        if row[SOCKET_STATE_FIELD] == LISTENING and int(row[SOCKET_ADDRESS_FIELD].rpartition(":")[2], 16) == port
    ]


def await_unlisted(identities: Sequence[ProcessIdentity], timeout_s: float) -> bool:
    """Waits until none of these processes is in the process table; says whether that came about in time."""
    deadline = time.monotonic() + timeout_s
    while any(identity.listed() for identity in identities):
        if time.monotonic() >= deadline:
            return False
        time.sleep(UNLISTED_POLL_S)
    return True


def _table_entry(pid: int) -> tuple[str, int] | None:
    """Gives the state and the start time of a process table's entry."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[STATE_FIELD], int(fields[START_TIME_FIELD])


def current_identity() -> ProcessIdentity:
    """Gives the identity of the process that asks."""
    pid = os.getpid()
    return ProcessIdentity(pid, start_ticks(pid) or 0)


class RunningProcess:
    """A process that runs or ran, started here or found running; signalled without any chance to hit another."""

    def __init__(self, identity: ProcessIdentity, descriptor: int, child: "subprocess.Popen[bytes] | None") -> None:
        self.identity = identity
        self._descriptor = descriptor
        self._child = child
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log_file: Path) -> Self:
        """Starts a program in a session of its own, with both outputs appended to `log_file`.

        Raises:
            OSError: It can't be started.
        """
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        try:
            child = subprocess.Popen(  # noqa: S603
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        # Until it is reaped below, its pid is nobody else's.
        descriptor = os.pidfd_open(child.pid)
        return cls(ProcessIdentity(child.pid, start_ticks(child.pid) or 0), descriptor, child)

    @classmethod
    def adopt(cls, identity: ProcessIdentity) -> Self | None:
        """Takes hold of a process that runs already; None if it does not run any more."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            return None
        # The descriptor is bound to whoever has the pid now; the start time says whether that is the one meant.
        if not identity.alive():
            os.close(descriptor)
            return None
        return cls(identity, descriptor, None)

    @property
    def adopted(self) -> bool:
        """Whether it was found running."""
        return self._child is None

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, waiting up to `timeout_s` for that."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return False
        if self._child is not None:
            self._child.wait()
        return True

    def exit_status(self) -> int | None:
        """Gives its exit status, negative for a signal; None while it runs and for one that was found running."""
        return None if self._child is None else self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Signals it; does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Lets go of it; it runs on."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class PidFile:
    """Remembers which process does a job, and from which configuration it was started."""

    path: Path

    def write(self, identity: ProcessIdentity, fingerprint: str) -> None:
        """Records the process.

        Raises:
            OSError: The file can't be written.
        """
        write_private(self.path, (json.dumps({**asdict(identity), "fingerprint": fingerprint}) + "\n").encode())

    def read(self) -> tuple[ProcessIdentity, str] | None:
        """Gives the process and the fingerprint recorded, or None."""
        try:
            record = json.loads(self.path.read_text())
            return ProcessIdentity(int(record["pid"]), int(record["start_ticks"])), str(record["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def alive(self) -> ProcessIdentity | None:
        """Gives the process recorded if it still runs."""
        record = self.read()
        return record[0] if record is not None and record[0].alive() else None

    def remove(self) -> None:
        """Forgets the process."""
        self.path.unlink(missing_ok=True)
