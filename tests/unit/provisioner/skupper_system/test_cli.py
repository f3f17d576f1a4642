"""Running Skupper's CLI as a program: found, of a known version, within limits, and told no secret of ours."""

import asyncio
import os
import select
import sys
from pathlib import Path

import pytest

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper_system.cli import CliLimits, SkupperCli
from redoma_provisioner.network.drivers.skupper_system.process import TooMuchOutput, run_program
from tests.fakes import skupper_cli
from tests.fakes.skupper_cli import WORLD, Control


def executable(directory: Path, script: str) -> str:
    """Makes a program."""
    path = directory / "skupper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def cli(program: str, **environ: str) -> SkupperCli:
    """Gives the CLI that runs a program."""
    limits = CliLimits(status_s=10.0, restart_s=10.0)
    return SkupperCli(program, "redoma", "podman", {**os.environ, **environ}, limits=limits)


async def is_gone(pid: int) -> None:
    """Waits until a process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = await asyncio.to_thread(select.select, [handle], [], [], 10.0)
    os.close(handle)
    assert ended


async def test_a_missing_cli_is_told_with_its_version_and_where_to_get_it() -> None:
    with pytest.raises(DriverRefused, match=r"needs 2\.2\.1: install Skupper 2\.2\.1 .*skupperproject/skupper"):
        await cli("/nowhere/skupper").check_version()


@pytest.mark.parametrize("version", ["2.2.0", "1.8.3", "3.0.0", "", "unknown"])
async def test_another_version_is_told_with_the_one_that_is_needed(tmp_path: Path, version: str) -> None:
    with pytest.raises(DriverRefused, match=r"needs 2\.2\.1 or later of version 2"):
        await cli(executable(tmp_path, f"echo {version}")).check_version()


@pytest.mark.parametrize("version", ["2.2.1", "v2.2.1", "2.3.0", "2.10.0-rc1"])
async def test_this_version_and_later_ones_are_taken(tmp_path: Path, version: str) -> None:
    await cli(executable(tmp_path, f"echo {version}")).check_version()


async def test_each_command_is_told_its_namespace_and_platform(tmp_path: Path) -> None:
    program = executable(tmp_path, f'echo "$@" "$SKUPPER_PLATFORM" >> {tmp_path}/log')
    await cli(program).reload()
    await cli(program).status("link")
    assert (tmp_path / "log").read_text().splitlines() == [
        "system reload -n redoma -p podman podman",
        "link status -o json -n redoma -p podman podman",
    ]


async def test_a_refusal_with_exit_code_zero_is_one(tmp_path: Path) -> None:
    program = executable(tmp_path, "echo 'This command does not support kubernetes platforms.'")
    with pytest.raises(DriverRefused, match=r"set driver\.platform"):
        await cli(program).reload()


async def test_secrets_of_this_process_are_not_passed_on(tmp_path: Path) -> None:
    program = executable(tmp_path, f"env > {tmp_path}/env")
    await cli(program, REDOMA_SECRET="marker", AWS_SECRET_ACCESS_KEY="marker").status("site")
    assert "marker" not in (tmp_path / "env").read_text()


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    program = executable(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; wait")
    slow = SkupperCli(program, "redoma", "podman", os.environ, limits=CliLimits(restart_s=1.0))
    with pytest.raises(DriverUnavailable, match="did not end within 1 s"):
        await slow.reload()
    child = int((tmp_path / "child").read_text())
    await is_gone(child)


async def test_a_cancelled_command_is_killed(tmp_path: Path) -> None:
    program = executable(tmp_path, f"echo $$ > {tmp_path}/started; sleep 300")
    os.mkfifo(tmp_path / "started")
    task = asyncio.create_task(cli(program).status("site"))
    pid = int(await asyncio.to_thread((tmp_path / "started").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await is_gone(pid)


async def test_output_without_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(TooMuchOutput):
        await run_program([executable(tmp_path, "yes")], os.environ, timeout_s=10.0, output_limit=100_000)


async def test_the_loop_goes_on_while_a_command_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    program = executable(tmp_path, f"read line < {tmp_path}/gate; echo '{{}}'")
    task = asyncio.create_task(cli(program).status("site"))
    await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
    assert await task == [{}]


async def test_the_stand_in_is_a_program_too(tmp_path: Path) -> None:
    program = executable(tmp_path, f'exec {sys.executable} {skupper_cli.__file__} "$@"')
    Control(tmp_path).put(version="2.2.1")
    made = cli(program, **{WORLD: str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "public")})
    await made.check_version()
    with pytest.raises(DriverRefused, match="looks elsewhere"):
        await made.reload()
    assert await made.status("listener") == []
