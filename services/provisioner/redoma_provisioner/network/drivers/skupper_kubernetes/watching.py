"""Watches kinds of resources, each on a thread of its own, and says when anything changed.

What there is, is always listed anew by who is told, so an event is a hint and none may be missed for long: a watch that
breaks goes on from the last version it saw, and where the API server does not remember that one, from a fresh list.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence

import structlog
from urllib3.exceptions import HTTPError

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer, Changes
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import NotThere, VersionTooOld
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import Kind
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import part

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
# One that ends sooner than this without an event counts as failed, so that none is opened over and over.
LEAST_S = 1.0


class Watching:
    """Watches until it is stopped."""

    def __init__(
        self,
        api: Callable[[], ApiServer],
        kinds: Sequence[Kind],
        tell: Callable[[], None],
        monotonic: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`api` may block; `tell` is called on a thread, whenever something changed or may have."""
        self._api = api
        self._tell = tell
        self._monotonic = monotonic
        self._log = log
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[Kind, Changes] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), name=f"watch-{kind.plural}", daemon=True) for kind in kinds
        ]

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Has every thread end, in the middle of waiting too; does not wait for them."""
        self._stopped.set()
        with self._lock:
            for changes in self._open.values():
                changes.stop()

    def join(self, timeout_s: float) -> bool:
        """Waits for the threads, each at most `timeout_s`; tells whether all have ended."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, kind: Kind) -> None:
        version, failures, problem = "", 0, ""
        while not self._stopped.is_set():
            began, seen = self._monotonic(), version
            try:
                if not version:
                    version = seen = self._api().list(kind, limit=1).version
                    self._tell()
                for latest in self._versions(kind, version):
                    version, failures, problem = latest, 0, ""
            except VersionTooOld:
                version = ""
            except (DriverRefused, DriverUnavailable, NotThere, HTTPError, OSError, ValueError) as error:
                problem = self._note(kind, error, problem)
                failures += 1
            except Exception:
                self._log.exception("a watch failed", kind=kind.name)
                failures += 1
            else:
                failures += version == seen and self._monotonic() - began < LEAST_S
            if failures:
                self._stopped.wait(_pause(failures))

    def _versions(self, kind: Kind, version: str) -> Iterator[str]:
        """Gives the version of each event, after it has told of those that are more than bookmarks."""
        changes = self._api().watch(kind, version)
        with self._lock:
            self._open[kind] = changes
            if self._stopped.is_set():
                changes.stop()
        for event in changes:
            if event.get("type") != "BOOKMARK":
                self._tell()
            yield str(part(part(event, "object"), "metadata").get("resourceVersion", ""))

    def _note(self, kind: Kind, error: Exception, former: str) -> str:
        problem = str(error)
        if problem != former and not self._stopped.is_set():
            self._log.info("a watch broke and is opened again", kind=kind.name, problem=problem[:300])
        return problem


def _pause(failures: int) -> float:
    """Gives how long to wait before another try: longer with each failure, and not the same for all."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)
