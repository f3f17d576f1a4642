"""Reads the processes' logs, one or several together, and goes on as they grow."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from redoma_cli.local.home import Home
from redoma_cli.local.plan import log_file
from redoma_cli.local.up import tail

POLL_S = 0.2


def known_logs(home: Home) -> list[str]:
    """Gives the names of the logs there are."""
    return sorted(file.stem for file in home.log.glob("*.log"))


def follow_logs(home: Home, names: Sequence[str], lines: int, follow: bool) -> None:
    """Prints the last lines of each log and, if asked, what is written later, until interrupted."""
    prefix = len(names) > 1
    positions: dict[str, int] = {}
    for name in names:
        file = log_file(home, name)
        positions[name] = file.stat().st_size if file.exists() else 0
        for line in tail(file, lines):
            _print(name, line, prefix)
    try:
        while follow:
            for name in names:
                positions[name] = _print_new(name, log_file(home, name), positions[name], prefix)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


def _print_new(name: str, file: Path, position: int, prefix: bool) -> int:
    try:
        with file.open("rb") as opened:
            # A log that was bounded begins anew.
            opened.seek(position if opened.seek(0, 2) >= position else 0)
            start, content = opened.tell(), opened.read()
    except OSError:
        return position
    whole, newline, _ = content.rpartition(b"\n")
    for line in whole.decode("utf-8", "replace").splitlines():
        _print(name, line, prefix)
    return start + len(whole) + len(newline)


def _print(name: str, line: str, prefix: bool) -> None:
    sys.stdout.write(f"{name:<10} {line}\n" if prefix else f"{line}\n")
    sys.stdout.flush()
