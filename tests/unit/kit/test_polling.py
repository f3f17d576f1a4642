"""A service's gRPC reads sockets on the thread that waits for them, and says so when it can't any more."""

import asyncio
import os
import subprocess
import sys

import pytest
import uvloop

from redoma_kit.polling import EXPERIMENTS_VARIABLE, WITHOUT_EVENT_ENGINE, poll_without_event_engine, run_service


def test_grpc_still_knows_the_experiments() -> None:
    """A gRPC that has dropped them would only log it, and each token would cost more again."""
    program = "import asyncio, grpc\nasync def main(): grpc.aio.insecure_channel('localhost:1')\nasyncio.run(main())"
    environment = {**os.environ, EXPERIMENTS_VARIABLE: WITHOUT_EVENT_ENGINE}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "nknown experiment" not in told.stderr
    environment[EXPERIMENTS_VARIABLE] = "-no_such_experiment"
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "nknown experiment" in told.stderr


def test_the_operators_own_experiments_stay() -> None:
    environment = {EXPERIMENTS_VARIABLE: "tcp_frame_size_tuning"}
    poll_without_event_engine(environment)
    assert environment == {EXPERIMENTS_VARIABLE: "tcp_frame_size_tuning"}


def test_too_late_is_told() -> None:
    assert "grpc" in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        poll_without_event_engine({})


def test_service_runs_on_uvloop() -> None:
    async def loop_type() -> type[asyncio.AbstractEventLoop]:
        return type(asyncio.get_running_loop())

    assert run_service(loop_type()) is uvloop.Loop
