"""`redoma conformance` as a person or a CI job runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from redoma_cli.__main__ import build_app
from redoma_cli.conformance.catalogue import all_checks
from redoma_cli.errors import CliError
from tests.unit.cli.conformance.double_site import DoubleSite
from tests.unit.cli.conformance.world import ADMIN_KEY, Defect, World

REDOMA = Path(sys.executable).with_name("redoma")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No site of this machine, and no key of its user."""
    monkeypatch.setenv("REDOMA_HOME", str(tmp_path))
    monkeypatch.setenv("REDOMA_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.delenv("REDOMA_EDGE", raising=False)


def redoma(*arguments: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(build_app(), ["conformance", *arguments])


def test_checks_are_listed() -> None:
    result = redoma("--list")
    assert result.exit_code == 0
    assert all(check.id in result.stdout for check in all_checks())


def test_unknown_check_is_told_with_those_there_are() -> None:
    result = redoma("--check", "nonsense", "--edge", "http://127.0.0.1:9")
    assert isinstance(result.exception, CliError)
    assert "tenant-isolation" in result.exception.mend


def test_sound_deployment_exits_with_0_and_a_whole_report(double: DoubleSite, tmp_path: Path) -> None:
    double.become(World())
    junit = tmp_path / "report.xml"
    arguments = ("--edge", double.url, "--check", "tenant-isolation", "--check", "noisy-neighbour", "--quick")
    result = redoma(*arguments, "--json", "--junit", str(junit))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["conforms"] is True
    assert [check["outcome"] for check in told["checks"]] == ["passed", "skipped"]
    assert len(ElementTree.fromstring(junit.read_bytes()).findall(".//testcase")) == 2
    assert ADMIN_KEY not in result.output
    assert redoma(*arguments, "--strict").exit_code == 1


def test_defective_deployment_exits_with_1_and_says_why(double: DoubleSite) -> None:
    double.become(World(Defect.LEAKS_USAGE))
    result = redoma("--edge", double.url, "--check", "tenant-isolation")
    assert result.exit_code == 1
    assert "why it matters" in result.stdout
    assert "QueryUsage" in result.stdout
    assert "tenant-isolation" in result.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_deletes_its_tenants(double: DoubleSite, signum: signal.Signals, tmp_path: Path) -> None:
    world = double.become(World(Defect.NEVER_ENDS))
    argv = [str(REDOMA), "conformance", "--edge", double.url, "--check", "stream-end"]
    environment = {**os.environ, "REDOMA_HOME": str(tmp_path)}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 30
        while not world.runs and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signum)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert "The throw-away tenants are deleted." in told
    assert not world.tenants
    assert world.deleted
