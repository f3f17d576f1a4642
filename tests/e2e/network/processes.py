"""Processes of the two sites, each in its namespace, with a log of its own."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.02


@dataclass(slots=True)
class Process:
    """One program, to be started, frozen and killed."""

    name: str
    argv: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """Its id."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def log(self) -> Path:
        """Where all it says is written."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, cwd=self.folder, stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it, frozen or not, if it runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
            self.process = None

    def check(self) -> None:
        """Fails with the end of its log if it has ended by itself."""
        assert self.process is not None and self.process.poll() is None, f"{self.name}: {self.log.read_text()[-2000:]}"

    def descriptors(self) -> int:
        """Counts its open files."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def until(condition: Callable[[], bool], what: str, bound_s: float = 30.0) -> float:
    """Waits until a condition holds, and gives how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < bound_s, f"not within {bound_s} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began
