"""The process that keeps a site's processes running, and what `redoma up` and `redoma down` say to it.

It holds nothing that is not on disk: killed, it leaves the services running, and the next one adopts them.
"""

import fcntl
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from redoma_cli.local.home import PRIVATE_FILE, Home
from redoma_cli.local.keeper import Keeper, KeeperTimes
from redoma_cli.local.plan import ProcessSpec, fingerprint, log_file, pid_file, read_plan
from redoma_cli.local.probe import open_probe
from redoma_cli.local.process import PidFile, ProcessIdentity, current_identity, start_ticks
from redoma_cli.local.service import program_files
from redoma_cli.local.state import Journal, state_file
from redoma_cli.local.stop import SiteStopper

NAME = "supervisor"
LOCK = "supervisor.lock"
RELOAD, STEP_ASIDE = signal.SIGHUP, signal.SIGUSR1
ENDINGS = (signal.SIGTERM, signal.SIGINT)
HOUSEKEEPING_S = 1.0
STOP_GRACE_S = 30.0
# A supervisor whose record was taken away makes it anew within HOUSEKEEPING_S.
UNRECORDED_S = 5.0
UNRECORDED_POLL_S = 0.05
LARGEST_LOG_BYTES = 16 << 20


class Supervisor:
    """Keeps the processes of the plan running until it is told to stop them or to step aside."""

    def __init__(
        self,
        home: Home,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        times: KeeperTimes | None = None,
        largest_log_bytes: int = LARGEST_LOG_BYTES,
    ) -> None:
        self._home = home
        self._say = say
        self._clock = clock
        self._times = times or KeeperTimes()
        self._largest_log_bytes = largest_log_bytes
        self._journal = Journal(state_file(home))
        self._keepers: dict[str, Keeper] = {}
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lock = -1
        self._program = program_digest()

    def run(self) -> None:
        """Supervises until a signal ends it; returns at once when another supervisor of this home runs.

        Raises:
            OSError: The plan or the run directory can't be used.
            ValueError: The plan can't be read.
        """
        if not self._hold_lock():
            self._say("another supervisor runs already")
            return
        for number in (RELOAD, STEP_ASIDE, *ENDINGS):
            signal.signal(number, lambda received, _frame: self._signals.put(received))
        record = PidFile(pid_file(self._home, NAME))
        record.write(current_identity(), self._program)
        try:
            self._reload()
            self._obey()
        finally:
            if PidFile(record.path).alive() == current_identity():
                record.remove()
            os.close(self._lock)

    def _obey(self) -> None:
        while True:
            try:
                received = self._signals.get(timeout=HOUSEKEEPING_S)
            except queue.Empty:
                self._bound_logs()
                if self._keep_place():
                    continue
                received = STEP_ASIDE
            if received == RELOAD:
                self._reload()
                continue
            self._let_go(list(self._keepers))
            if received in ENDINGS:
                SiteStopper(self._home, self._say).stop(STOP_GRACE_S)
            self._say("ends" if received in ENDINGS else "steps aside; the processes run on")
            return

    def _hold_lock(self) -> bool:
        """Takes the lock that makes this the only supervisor of its home; says whether it got it."""
        lock = os.open(self._home.run / LOCK, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock
        return True

    def _holds_lock_file(self) -> bool:
        """Whether the file it locked is still the one that others would lock."""
        try:
            return os.path.samestat(os.fstat(self._lock), (self._home.run / LOCK).stat())
        except OSError:
            return False

    def _keep_place(self) -> bool:
        """Makes its record anew where it was taken away or spoiled; says whether it is still the only supervisor."""
        record = PidFile(pid_file(self._home, NAME))
        if record.read() == (current_identity(), self._program):
            return True
        try:
            self._home.create()
            if not self._holds_lock_file() and not self._hold_lock():
                self._say("another supervisor has taken over")
                return False
            record.write(current_identity(), self._program)
        except OSError as error:
            self._say(f"it can't be recorded: {error}")
        return True

    def _reload(self) -> None:
        specs = {spec.name: spec for spec in read_plan(self._home)}
        self._let_go([name for name in self._keepers if name not in specs])
        for name, spec in specs.items():
            if name in self._keepers:
                self._keepers[name].follow(spec)
            else:
                self._keepers[name] = self._keep(spec)

    def _keep(self, spec: ProcessSpec) -> Keeper:
        keeper = Keeper(
            spec=spec,
            pid_file=PidFile(pid_file(self._home, spec.name)),
            log_file=log_file(self._home, spec.name),
            run_directory=self._home.run,
            journal=self._journal,
            open_probe=open_probe,
            say=self._say,
            clock=self._clock,
            times=self._times,
        )
        keeper.start()
        return keeper

    def _let_go(self, names: list[str]) -> None:
        keepers = [self._keepers.pop(name) for name in names]
        for keeper in keepers:
            keeper.let_go()
        for keeper in keepers:
            keeper.join()

    def _bound_logs(self) -> None:
        for name in (*self._keepers, NAME):
            try:
                bound_log(log_file(self._home, name), self._largest_log_bytes)
            except OSError as error:
                self._say(f"{name}: its log can't be bounded: {error}")


def bound_log(file: Path, largest_bytes: int) -> None:
    """Moves a log that has grown past `largest_bytes` to `<file>.1`, leaving the file itself open and empty.

    What is written between the copy and the cut, a few lines at most, is lost: the price of writers that never reopen.

    Raises:
        OSError: The copy can't be made.
    """
    if not file.exists() or file.stat().st_size <= largest_bytes:
        return
    shutil.copyfile(file, file.with_name(f"{file.name}.1"))
    os.truncate(file, 0)


def program_digest() -> str:
    """Gives a digest of the supervisor's own program."""
    return fingerprint((), {}, program_files(("redoma_cli.local",)))


def follows_this_program(home: Home) -> bool:
    """Whether the supervisor that is recorded was started from the program as it is."""
    record = PidFile(pid_file(home, NAME)).read()
    return record is not None and record[1] == program_digest()


def running_supervisor(home: Home) -> ProcessIdentity | None:
    """Gives the supervisor of this home, if one runs."""
    return PidFile(pid_file(home, NAME)).alive()


def supervised(home: Home) -> bool:
    """Whether a supervisor of this home runs, be it one that is not recorded, or not yet, or about to end."""
    try:
        lock = os.open(home.run / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def await_supervisor(home: Home, timeout_s: float = UNRECORDED_S) -> ProcessIdentity | None:
    """Gives the supervisor of this home, waiting a moment for the record of one that runs without; None without one."""
    deadline = time.monotonic() + timeout_s
    while (found := running_supervisor(home)) is None and supervised(home) and time.monotonic() < deadline:
        time.sleep(UNRECORDED_POLL_S)
    return found


def start_supervisor(home: Home) -> ProcessIdentity:
    """Starts a supervisor that outlives the caller, in a session of its own.

    Raises:
        OSError: It can't be started.
    """
    log = os.open(log_file(home, NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    try:
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "redoma_cli", "supervise", "--home", str(home.root)],
            cwd=home.run,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    return ProcessIdentity(child.pid, start_ticks(child.pid) or 0)


def tell_supervisor(supervisor: ProcessIdentity, number: signal.Signals) -> None:
    """Signals a running supervisor, halted or not; does nothing if it has ended."""
    descriptor = -1
    try:
        descriptor = os.pidfd_open(supervisor.pid)
        if supervisor.alive():
            signal.pidfd_send_signal(descriptor, number)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    except ProcessLookupError:
        return
    finally:
        if descriptor >= 0:
            os.close(descriptor)
