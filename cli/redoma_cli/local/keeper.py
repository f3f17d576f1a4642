"""Keeps one process running: starts or adopts it, watches it, and starts it again when it ends or no longer answers."""

import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.local.home import PRIVATE_DIRECTORY
from redoma_cli.local.plan import ProbeSpec, ProcessSpec
from redoma_cli.local.probe import Answer, Probe
from redoma_cli.local.process import PidFile, RunningProcess
from redoma_cli.local.state import Journal, State


@dataclass(frozen=True, slots=True)
class KeeperTimes:
    """How patient a keeper is, in seconds.

    Attributes:
        first_backoff_s: Between the first death and the new start; doubled by each further death.
        longest_backoff_s: The bound of that doubling.
        steady_s: Being ready this long makes the next backoff the first again.
        silence_s: Not answering this long, once it has answered, is being dead.
        start_s: Not answering this long after a start is being dead. Loading is answering.
        watch_s: Between two questions.
        start_watch_s: The same until the process is ready.
        stop_s: How long a process that must follow a new configuration may take to end.
    """

    first_backoff_s: float = 0.2
    longest_backoff_s: float = 5.0
    steady_s: float = 30.0
    silence_s: float = 10.0
    start_s: float = 120.0
    watch_s: float = 1.0
    start_watch_s: float = 0.1
    stop_s: float = 30.0


class Keeper:
    """Keeps the process of one spec, on a thread of its own, until told to let go."""

    def __init__(
        self,
        spec: ProcessSpec,
        pid_file: PidFile,
        log_file: Path,
        run_directory: Path,
        journal: Journal,
        open_probe: Callable[[ProbeSpec, Path], Probe],
        say: Callable[[str], None],
        clock: Callable[[], float],
        times: KeeperTimes,
    ) -> None:
        self._spec = spec
        self._pid_file = pid_file
        self._log_file = log_file
        self._run_directory = run_directory
        self._journal = journal
        self._open_probe = open_probe
        self._say = say
        self._clock = clock
        self._times = times
        self._backoff_s = times.first_backoff_s
        self._let_go = threading.Event()
        self._restarts = 0
        self._thread = threading.Thread(target=self._run, name=f"keeper-{spec.name}", daemon=True)

    @property
    def spec(self) -> ProcessSpec:
        """What it keeps running."""
        return self._spec

    def follow(self, spec: ProcessSpec) -> None:
        """Makes the process follow a new spec, starting it anew if it must be."""
        self._spec = spec

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def let_go(self) -> None:
        """Ends the keeping and leaves the process as it is; `join` waits until that is so."""
        self._let_go.set()

    def join(self) -> None:
        """Waits until the keeping has ended."""
        self._thread.join()

    def _run(self) -> None:
        while not self._let_go.is_set():
            spec = self._spec
            process = self._adopt(spec) or self._start(spec)
            if process is not None:
                ended = self._watch(spec, process)
                process.close()
                if not ended:
                    continue
                self._restarts += 1
            self._journal.record(spec.name, State.WAITING, None, self._restarts)
            self._let_go.wait(self._backoff_s)
            self._backoff_s = min(self._backoff_s * 2, self._times.longest_backoff_s)

    def _adopt(self, spec: ProcessSpec) -> RunningProcess | None:
        record = self._pid_file.read()
        process = RunningProcess.adopt(record[0]) if record is not None else None
        if record is None or process is None:
            return None
        if record[1] == spec.fingerprint:
            self._say(f"{spec.name}: adopted pid {process.identity.pid}")
            return process
        self._stop(spec, process)
        process.close()
        return None

    def _start(self, spec: ProcessSpec) -> RunningProcess | None:
        try:
            self._ensure_run_directory()
            directory = spec.working_directory(self._run_directory)
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            process = RunningProcess.start(spec.argv, spec.env, directory, self._log_file)
        except OSError as error:
            self._say(f"{spec.name}: can't be started: {error}")
            return None
        try:
            self._pid_file.write(process.identity, spec.fingerprint)
        except OSError as error:
            # A process that nobody could find again must not stay.
            self._say(f"{spec.name}: can't be recorded: {error}")
            process.send(signal.SIGKILL)
            process.ended(self._times.stop_s)
            process.close()
            return None
        self._say(f"{spec.name}: started pid {process.identity.pid}")
        return process

    def _watch(self, spec: ProcessSpec, process: RunningProcess) -> bool:
        """Watches until the process has ended (True), or is to be let go or replaced (False)."""
        try:
            probe = self._open_probe(spec.probe, spec.working_directory(self._run_directory))
        except OSError as error:
            self._say(f"{spec.name}: can't be asked how it is: {error}")
            self._journal.record(spec.name, State.SILENT, process.identity, self._restarts)
            return process.ended(self._times.longest_backoff_s)
        patience = Patience(self._times, self._clock(), answered=process.adopted)
        self._journal.record(spec.name, State.STARTING, process.identity, self._restarts)
        try:
            while not self._let_go.is_set() and self._spec.fingerprint == spec.fingerprint:
                if process.ended(self._times.watch_s if patience.ready else self._times.start_watch_s):
                    self._say(f"{spec.name}: ended with {describe_exit(process.exit_status())}")
                    return True
                self._remember(spec, process)
                answer = probe.ask()
                state = patience.hear(answer, self._clock())
                if patience.steady:
                    self._backoff_s = self._times.first_backoff_s
                self._journal.record(spec.name, state, process.identity, self._restarts)
                if patience.exhausted:
                    self._say(f"{spec.name}: does not answer; killed and started again")
                    process.send(signal.SIGKILL)
                    process.ended(self._times.stop_s)
                    return True
            return False
        finally:
            probe.close()

    def _remember(self, spec: ProcessSpec, process: RunningProcess) -> None:
        """Records the process again where its record was taken away or spoiled: nobody else could find it."""
        if self._pid_file.read() == (process.identity, spec.fingerprint):
            return
        # On a full disk the next turn tries again.
        with contextlib.suppress(OSError):
            self._ensure_run_directory()
            self._pid_file.write(process.identity, spec.fingerprint)

    def _ensure_run_directory(self) -> None:
        self._run_directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        self._log_file.parent.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)

    def _stop(self, spec: ProcessSpec, process: RunningProcess) -> None:
        self._say(f"{spec.name}: its configuration changed; ending pid {process.identity.pid}")
        self._journal.record(spec.name, State.STOPPING, process.identity, self._restarts)
        process.send(signal.SIGTERM)
        if not process.ended(self._times.stop_s):
            process.send(signal.SIGKILL)
            process.ended(self._times.stop_s)


class Patience:
    """Judges a process by its answers: how long it may be silent, and since when it is ready."""

    def __init__(self, times: KeeperTimes, now: float, *, answered: bool) -> None:
        self._times = times
        self._answered = answered
        self._last_answer = now
        self._ready_since: float | None = None
        self._now = now

    @property
    def ready(self) -> bool:
        """Whether the last answer was READY."""
        return self._ready_since is not None

    @property
    def steady(self) -> bool:
        """Whether it has been ready for long."""
        return self._ready_since is not None and self._now - self._ready_since >= self._times.steady_s

    @property
    def exhausted(self) -> bool:
        """Whether it has been silent for too long."""
        allowed_s = self._times.silence_s if self._answered else self._times.start_s
        return self._now - self._last_answer >= allowed_s

    def hear(self, answer: Answer, now: float) -> State:
        """Takes in an answer and gives the state it shows."""
        self._now = now
        if answer is Answer.SILENT:
            self._ready_since = None
            return State.SILENT if self._answered else State.STARTING
        self._answered = True
        self._last_answer = now
        if answer is Answer.NOT_READY:
            self._ready_since = None
            return State.LOADING
        if self._ready_since is None:
            self._ready_since = now
        return State.READY


def describe_exit(status: int | None) -> str:
    """Says how a process ended."""
    if status is None:
        return "a status that only its parent was told"
    if status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
