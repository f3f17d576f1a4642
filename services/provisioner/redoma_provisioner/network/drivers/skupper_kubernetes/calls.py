"""Keeps blocking calls off the event loop: on a few threads, each call for a bounded time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from redoma_provisioner.network.driver import DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer

T = TypeVar("T")
THREADS = 4


class Calls:
    """Calls of one API server, which is connected to at the first."""

    def __init__(self, connect: Callable[[], ApiServer], threads: int = THREADS) -> None:
        """`connect` may block; `threads`: the most calls at a time."""
        self._connect = connect
        self._api: ApiServer | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="skupper-kubernetes")

    async def run(self, function: Callable[[ApiServer], T]) -> T:
        """Runs `function` with the API server on one of the threads.

        A caller that is cancelled goes on at once; what its thread began ends by its own time limit.

        Raises:
            DriverUnavailable: It is closed.
            Whatever `function` raises.
        """
        if self._closed:
            raise DriverUnavailable("The driver is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(self.api()))

    def api(self) -> ApiServer:
        """Gives the API server; blocks at the first call. For threads."""
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def close(self) -> None:
        """Drops the calls that wait for a thread, and the connections that nobody uses."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._api is not None:
            self._api.close()
