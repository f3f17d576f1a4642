"""Takes a site down without cutting answers short: the edge refuses what is new, what runs may finish, then all end."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from redoma_cli.local.home import Home
from redoma_cli.local.plan import STOP_ORDER, pid_file, stop_order
from redoma_cli.local.probe import EnvoyAdmin
from redoma_cli.local.process import PidFile, ProcessIdentity, RunningProcess, await_unlisted
from redoma_cli.local.state import state_file
from redoma_kit.envoy_process import admin_socket

# How long a process without work may take to end before it is killed.
LEAST_GRACE_S = 5.0
POLL_S = 0.1
KILL_WAIT_S = 10.0
# Orphans are init's to take off the process table; some do that now and then only, and some never.
UNLISTED_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class SiteStopper:
    """Stops the processes recorded in a home, whoever started them.

    Attributes:
        home: Whose processes.
        say: Told what holds things up.
        clock: Seconds, monotonic.
    """

    home: Home
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic

    def stop(self, grace_s: float) -> int:
        """Stops all that runs, waiting up to `grace_s` for running streams; gives how many processes it ended."""
        deadline = self.clock() + grace_s
        ended: list[ProcessIdentity] = []
        self.wake()
        for name in stop_order([name for name in STOP_ORDER if pid_file(self.home, name).exists()]):
            record = PidFile(pid_file(self.home, name))
            entry = record.read()
            process = RunningProcess.adopt(entry[0]) if entry else None
            if process is not None:
                if name == "edge":
                    self._drain(process, deadline)
                self._end(name, process, deadline)
                process.close()
                ended.append(process.identity)
            record.remove()
        state_file(self.home).unlink(missing_ok=True)
        await_unlisted(ended, UNLISTED_WAIT_S)
        return len(ended)

    def wake(self) -> None:
        """Lets halted processes go on: one that is halted can neither finish its work nor end."""
        for name in STOP_ORDER:
            record = PidFile(pid_file(self.home, name)).read()
            process = RunningProcess.adopt(record[0]) if record else None
            if process is not None:
                process.send(signal.SIGCONT)
                process.close()

    def _drain(self, edge: RunningProcess, deadline: float) -> None:
        admin = EnvoyAdmin(self.home.run / admin_socket("edge"))
        told = 0
        try:
            # The first makes every answer ask its client to reconnect; the second closes the port to new ones.
            admin.request("POST", "/healthcheck/fail")
            admin.request("POST", "/drain_listeners")
            while (active := admin.active_requests()) > 0 and self.clock() < deadline:
                if active != told:
                    left_s = max(0.0, deadline - self.clock())
                    self.say(f"Waiting up to {left_s:.0f} s for {active} running request{'s' if active > 1 else ''} …")
                    told = active
                if edge.ended(POLL_S):
                    return
            if active:
                self.say(f"{active} request{'s' if active > 1 else ''} did not finish in time and will be cut.")
        except OSError:
            return

    def _end(self, name: str, process: RunningProcess, deadline: float) -> None:
        process.send(signal.SIGTERM)
        if process.ended(max(LEAST_GRACE_S, deadline - self.clock()) if name != "edge" else LEAST_GRACE_S):
            return
        self.say(f"{name} did not end in time and is killed.")
        process.send(signal.SIGKILL)
        process.ended(KILL_WAIT_S)
