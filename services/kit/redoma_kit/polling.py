"""How a service waits for the network: uvloop, and gRPC without threads of its own between a socket and the event loop.

Most of what a streamed token costs a service is the waking of threads. gRPC's event engine hands what arrives from its
poller over to a pool of threads and from there to the completion queue that asyncio's side waits on; the older poller,
which gRPC keeps beside it, reads the socket on that last thread itself.
"""

import asyncio
import sys
from collections.abc import Coroutine, MutableMapping
from typing import Any, TypeVar

import uvloop

EXPERIMENTS_VARIABLE = "GRPC_EXPERIMENTS"
WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
# How long a thread waits for the interpreter that another one keeps, for services whose event loop is busy with tokens:
# the usual 5 ms are as long as several tokens take.
SWITCH_INTERVAL_S = 0.0005
T = TypeVar("T")


def poll_without_event_engine(environment: MutableMapping[str, str]) -> None:
    """Makes this process's gRPC read sockets on the thread that waits for them; leaves an operator's own choice alone.

    Call it before grpc is imported.

    Raises:
        RuntimeError: grpc has been imported, so it is too late.
    """
    if "grpc" in sys.modules and EXPERIMENTS_VARIABLE not in environment:
        raise RuntimeError("grpc reads its experiments when it is imported; choose its poller before that")
    environment.setdefault(EXPERIMENTS_VARIABLE, WITHOUT_EVENT_ENGINE)


def run_service(main: Coroutine[Any, Any, T]) -> T:
    """Runs a service to its end on uvloop's event loop and gives what it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
