"""Every command in the operator's manual is one that our code runs or prints."""

import re
from pathlib import Path

import pytest

from redoma_provisioner.network.drivers import skupper_system

MANUAL = Path(__file__).parents[4] / "docs" / "operations" / "skupper.md"
SOURCES = "\n".join(path.read_text() for path in Path(str(skupper_system.__path__[0])).glob("*.py"))
COMMANDS = sorted(
    {
        line.strip()
        for line in MANUAL.read_text().partition("## The private site, on Podman")[2].splitlines()
        if re.match(r"    (skupper|podman|docker|systemctl|loginctl|journalctl) ", line)
    }
)


def test_the_manual_has_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_manual_is_run_or_printed(command: str) -> None:
    words = command.removesuffix(" -n redoma -p podman").split()
    run = {("version",), ("system", "start"), ("system", "reload")}
    statuses = {(kind, "status") for kind in ("site", "link", "listener", "connector")}
    if words[0] == "skupper" and tuple(words[1:]) in run | statuses:
        assert all(f'"{word}"' in SOURCES for word in words[1:])
        return
    printed = command.replace("redoma-skupper-router", "{namespace}-skupper-router")
    shared = printed.replace("podman ", "{self._platform} ", 1)
    by_platform = command.replace("-p podman", "-p {self._platform}")
    assert any(one in SOURCES for one in (printed, shared, by_platform)), command
