"""What the operator's manual has people look at with kubectl is what the driver's messages name."""

import re
from pathlib import Path

import pytest

from redoma_provisioner.network.drivers import skupper_kubernetes
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import INSTALL

MANUAL = (Path(__file__).parents[4] / "docs" / "operations" / "skupper.md").read_text()
SOURCES = "\n".join(path.read_text() for path in Path(str(skupper_kubernetes.__path__[0])).glob("*.py"))
LOOKS = re.findall(r"^    (kubectl -n redoma (?:get|describe) .*)$", MANUAL, re.MULTILINE)


def test_skupper_is_installed_as_the_message_says() -> None:
    assert f"    {INSTALL}\n" in MANUAL


@pytest.mark.parametrize("command", LOOKS)
def test_a_command_of_the_manual_is_one_that_is_printed(command: str) -> None:
    words = command.removeprefix("kubectl -n redoma ").replace(" skupper-router", " {ROUTER}")
    assert f"kubectl -n {{self.namespace}} {words}" in SOURCES


def test_the_manual_has_such_commands() -> None:
    assert len(LOOKS) >= 6
