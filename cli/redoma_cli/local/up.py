"""Brings processes up: starts or adopts those of a plan and waits until every one is ready."""

import errno
import http.client
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from redoma_cli.client import DEFAULT_PORT
from redoma_cli.errors import CliError
from redoma_cli.local.home import Home
from redoma_cli.local.options import DEFAULT_VAN_PORT
from redoma_cli.local.plan import STOP_ORDER, ProcessSpec, log_file, pid_file, read_plan, write_plan
from redoma_cli.local.ports import LOOPBACK, bind_error, next_free_port
from redoma_cli.local.process import PidFile, ProcessIdentity, RunningProcess, holds_deleted_file, listens_on
from redoma_cli.local.state import ProcessState, State, read_states, state_file
from redoma_cli.local.supervisor import (
    RELOAD,
    STEP_ASIDE,
    await_supervisor,
    follows_this_program,
    running_supervisor,
    start_supervisor,
    supervised,
    tell_supervisor,
)

READY_TIMEOUT_S = 300.0
POLL_S = 0.1
# A process that died this often while the site starts will not come up by itself.
DEATHS_TO_GIVE_UP = 4
SUPERVISOR_STARTS = 3
LAST_LINES = 3
# What a process writes into a deleted file is lost anyway.
DELETED_DATA_GRACE_S = 10.0
UNPLANNED_GRACE_S = 30.0
MODEL, EDGE, EGRESS = "model", "edge", "egress"

Progress = Callable[[Mapping[str, ProcessState]], None]


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A port that this machine's sites listen on.

    Attributes:
        variable: The environment variable that chooses it.
        port: The port.
        host: The interface.
        holder: The process of the site that listens there.
        default: The port where nobody chose one.
    """

    variable: str
    port: int
    host: str
    holder: str
    default: int


def edge_port_wanted(port: int) -> WantedPort:
    """Gives the port of the edge."""
    return WantedPort("REDOMA_PORT", port, LOOPBACK, EDGE, DEFAULT_PORT)


def van_port_wanted(port: int, host: str) -> WantedPort:
    """Gives the port where sites join and link."""
    return WantedPort("REDOMA_VAN_PORT", port, host, EGRESS, DEFAULT_VAN_PORT)


def check_port(home: Home, wanted: WantedPort) -> None:
    """Raises CliError when the site can't listen on a port that it wants."""
    holder = PidFile(pid_file(home, wanted.holder)).alive()
    if holder is not None and listens_on(holder.pid, wanted.port):
        return
    error = bind_error(wanted.port, wanted.host)
    if error is None:
        return
    if error.errno == errno.EACCES:
        free = next_free_port(wanted.default - 1)
        raise CliError(
            f"Port {wanted.port} is not for ordinary users to listen on.",
            f"Choose another, then do the same again: export {wanted.variable}={free}",
        )
    free = next_free_port(wanted.port)
    raise CliError(
        f"Port {wanted.port} is in use by another program{listener_of(wanted.port)}.",
        f"End it, or choose another port, then do the same again: export {wanted.variable}={free}",
    )


@dataclass(frozen=True, slots=True)
class SiteStarter:
    """Starts the processes of a plan under a supervisor.

    Attributes:
        home: Where they live.
        model_file: The model that is served here, to name it when it can't be loaded; None where none is.
        clock: Seconds, monotonic.
        sleep: Waits that many seconds.
    """

    home: Home
    model_file: Path | None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def start(self, specs: list[ProcessSpec], progress: Progress, ready: Callable[[], bool]) -> bool:
        """Makes the plan run and waits until every process is ready, and `ready` says so too.

        Returns:
            Whether it ran already, every process unchanged.

        Raises:
            CliError: A process does not come up, or what `ready` raises.
            OSError: A file can't be written.
        """
        supervisor = self._willing_supervisor({spec.name for spec in specs})
        replaced = self._end_holders_of_deleted_data(specs)
        unchanged = supervisor is not None and self._unchanged(specs) and not replaced
        write_plan(self.home, specs)
        if supervisor is None:
            # What a former supervisor saw says nothing of what this one will.
            state_file(self.home).unlink(missing_ok=True)
            supervisor = start_supervisor(self.home)
        elif not unchanged:
            tell_supervisor(supervisor, RELOAD)
        self._await_ready(supervisor, specs, progress, ready)
        return unchanged

    def clear(self) -> None:
        """Ends every process of this home, without waiting for what runs.

        Raises:
            OSError: The supervisor can't be signalled.
        """
        self._willing_supervisor(set())

    def _willing_supervisor(self, planned: set[str]) -> ProcessIdentity | None:
        """Gives the supervisor that runs, unless it is of another version or keeps what is not wanted any more.

        One of these is made to step aside, and what is not planned ends, such as a private site that moved elsewhere.
        """
        supervisor = await_supervisor(self.home)
        unplanned = [name for name in STOP_ORDER if name not in planned and PidFile(pid_file(self.home, name)).alive()]
        if supervisor is not None and not unplanned and follows_this_program(self.home):
            tell_supervisor(supervisor, signal.SIGCONT)
            return supervisor
        stop_supervisor(self.home, STEP_ASIDE, self.sleep)
        for name in unplanned:
            self._end(name, UNPLANNED_GRACE_S)
            PidFile(pid_file(self.home, name)).remove()
        return None

    def _end(self, name: str, grace_s: float) -> None:
        identity = PidFile(pid_file(self.home, name)).alive()
        process = RunningProcess.adopt(identity) if identity else None
        if process is None:
            return
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)
        if not process.ended(grace_s):
            process.send(signal.SIGKILL)
            process.ended(grace_s)
        process.close()

    def _end_holders_of_deleted_data(self, specs: list[ProcessSpec]) -> bool:
        """Ends processes whose database was deleted under them: started again they make a new one."""
        found = False
        for spec in specs:
            identity = PidFile(pid_file(self.home, spec.name)).alive()
            if identity is not None and lost_data(self.home, identity):
                self._end(spec.name, DELETED_DATA_GRACE_S)
                found = True
        return found

    def _unchanged(self, specs: list[ProcessSpec]) -> bool:
        records = {spec.name: PidFile(pid_file(self.home, spec.name)).read() for spec in specs}
        alive = {name: record[1] for name, record in records.items() if record is not None and record[0].alive()}
        try:
            planned = {spec.name: spec.fingerprint for spec in read_plan(self.home)}
        except (OSError, ValueError):
            return False
        return alive == planned == {spec.name: spec.fingerprint for spec in specs}

    def _await_ready(
        self,
        supervisor: ProcessIdentity,
        specs: list[ProcessSpec],
        progress: Progress,
        ready: Callable[[], bool],
    ) -> None:
        deadline = self.clock() + READY_TIMEOUT_S
        starts_left = SUPERVISOR_STARTS
        restarts_before = {name: state.restarts for name, state in read_states(self.home).items()}
        while True:
            states = self._current_states(specs)
            progress(states)
            if (
                running_supervisor(self.home) is not None
                and all(state.state is State.READY for state in states.values())
                and ready()
            ):
                return
            for name, state in states.items():
                if state.restarts - restarts_before.get(name, 0) >= DEATHS_TO_GIVE_UP:
                    raise self._failure(name, f"The {name} process ends again and again.")
            # One that was told to end still holds its lock while it takes the site down.
            if not supervisor.alive() and not supervised(self.home):
                if not starts_left:
                    raise self._failure("supervisor", "The supervisor ends again and again.")
                starts_left -= 1
                supervisor = start_supervisor(self.home)
            if self.clock() > deadline:
                late = ", ".join(name for name, state in states.items() if state.state is not State.READY) or EDGE
                raise self._failure(late.split(",")[0], f"Not ready after {READY_TIMEOUT_S:.0f} s: {late}.")
            self.sleep(POLL_S)

    def _current_states(self, specs: list[ProcessSpec]) -> dict[str, ProcessState]:
        """Gives the states of the processes that follow the plan; one that is yet to be replaced counts as starting."""
        known = read_states(self.home)
        states = {}
        for spec in specs:
            state = known.get(spec.name)
            record = PidFile(pid_file(self.home, spec.name)).read()
            current = state is not None and record is not None and record[1] == spec.fingerprint
            if state is None or (state.state is State.READY and not (current and state.alive)):
                restarts = state.restarts if state else 0
                state = ProcessState(State.STARTING, 0, 0, time.time(), restarts)
            states[spec.name] = state
        return states

    def _failure(self, name: str, sentence: str) -> CliError:
        said = last_words(tail(log_file(self.home, name), LAST_LINES))
        mend = f"Read its log: redoma logs {name}; stop what runs: redoma down"
        if name == MODEL and self.model_file is not None:
            mend = f"Check that {self.model_file} is a whole GGUF file of a kind llama.cpp knows. {mend}"
        return CliError(f"{sentence} It said last: {said}" if said else sentence, mend)


def lost_data(home: Home, identity: ProcessIdentity) -> bool:
    """Whether a process writes into a database that was deleted."""
    return any(holds_deleted_file(identity.pid, data) for data in (home.data, home.private.data))


def last_words(lines: Sequence[str]) -> str:
    """Gives what the last line of a log says; of a JSON line its event and error."""
    line = lines[-1].strip() if lines else ""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    return ": ".join(str(entry[part]) for part in ("event", "error") if entry.get(part))


def edge_ready(port: int, page: str = "/readyz") -> bool:
    """Whether the edge and everything behind it can be used; with `/healthz` the edge alone."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)
    try:
        connection.request("GET", page)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def site_lock(home: Home) -> Iterator[None]:
    """Holds the home against a second `redoma up` or `redoma down`.

    Raises:
        CliError: Another one is at work.
    """
    with (home.run / "site.lock").open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise CliError(
                f"Another `redoma up` or `redoma down` is at work on {home.root}.", "Wait until it has ended."
            ) from None
        yield


def stop_supervisor(
    home: Home, aside: signal.Signals, sleep: Callable[[float], None] = time.sleep
) -> list[ProcessIdentity]:
    """Makes the supervisor step aside, waits until it has ended, and gives it; gives none when none runs."""
    supervisor = await_supervisor(home)
    if supervisor is None:
        return []
    tell_supervisor(supervisor, aside)
    for _ in range(round(15 / POLL_S)):
        if not supervisor.alive():
            return [supervisor]
        sleep(POLL_S)
    # It holds nothing that is not on disk.
    tell_supervisor(supervisor, signal.SIGKILL)
    return [supervisor]


def tail(file: Path, lines: int, most_bytes: int = 256 << 10) -> list[str]:
    """Gives the last lines of a file, without reading more than `most_bytes` of it; empty if there is none."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(0, size - most_bytes))
            return opened.read().decode("utf-8", "replace").splitlines()[-lines:] if lines else []
    except OSError:
        return []


def listener_of(port: int) -> str:
    """Names the program that listens on a port, in parentheses, where the system tells."""
    try:
        done = subprocess.run(  # noqa: S603
            ["ss", "-Hltnp", f"sport = :{port}"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    _, found, users = done.stdout.partition('users:(("')
    if not found:
        return ""
    name = users.split('"')[0]
    pid = users.partition("pid=")[2].split(",")[0]
    return f" ({name}, pid {pid})"
