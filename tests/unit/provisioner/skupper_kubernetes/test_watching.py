"""A watch goes on from where it was, and from a fresh list where that is forgotten."""

import queue
import threading
from collections.abc import Iterator

import structlog

from redoma_provisioner.network.driver import DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Changes, Listing, Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import VersionTooOld
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import LISTENER, Kind
from redoma_provisioner.network.drivers.skupper_kubernetes.watching import Watching

SOON_S = 20.0
Script = list[Manifest] | Exception
Texts = list[str]


class ScriptedChanges:
    """Gives the events of one watch."""

    def __init__(self, events: list[Manifest], goes_on: bool) -> None:
        self._events = events
        self._ended = threading.Event()
        self._goes_on = goes_on

    def __iter__(self) -> Iterator[Manifest]:
        yield from self._events
        if self._goes_on:
            self._ended.wait(SOON_S)

    def stop(self) -> None:
        """See Changes."""
        self._ended.set()


class ScriptedApi:
    """Answers each watch by the next line of a script, and says what it was asked."""

    namespace = "ns"

    def __init__(self, script: list[Script]) -> None:
        self._script = iter(script)
        self._lists = iter(range(100, 1_000, 100))
        self.asked: queue.Queue[str] = queue.Queue()

    def list(self, kind: Kind, limit: int = 0) -> Listing:
        """See ApiServer."""
        version = str(next(self._lists))
        self.asked.put(f"list {version}")
        return Listing((), version)

    def watch(self, kind: Kind, version: str) -> Changes:
        """See ApiServer."""
        self.asked.put(f"watch {version}")
        line = next(self._script, None)
        if isinstance(line, Exception):
            raise line
        return ScriptedChanges(line or [], goes_on=line is None)

    def asks(self, count: int) -> Texts:
        """Gives what it is asked next."""
        return [self.asked.get(timeout=SOON_S) for _ in range(count)]


def event(type_: str, version: str) -> Manifest:
    """Gives an event as an API server does."""
    return {"type": type_, "object": {"metadata": {"resourceVersion": version}}}


def watch(api: ScriptedApi, told: "queue.Queue[None]") -> Watching:
    """Watches one kind of it."""
    watching = Watching(
        lambda: api,  # type: ignore[arg-type,return-value]
        [LISTENER],
        lambda: told.put(None),
        lambda: 0.0,
        structlog.stdlib.get_logger(),
    )
    watching.start()
    return watching


def test_it_goes_on_from_the_last_version_that_it_saw() -> None:
    api, told = ScriptedApi([[event("ADDED", "101"), event("BOOKMARK", "150")]]), queue.Queue[None]()
    watching = watch(api, told)
    assert api.asks(3) == ["list 100", "watch 100", "watch 150"]
    watching.stop()
    assert watching.join(SOON_S)
    assert told.qsize() == 2, "of the first list, and of what was added; a bookmark is no change"


def test_a_forgotten_version_is_listed_anew() -> None:
    api, told = ScriptedApi([[event("ADDED", "101")], VersionTooOld("too old")]), queue.Queue[None]()
    watching = watch(api, told)
    assert api.asks(5) == ["list 100", "watch 100", "watch 101", "list 200", "watch 200"]
    watching.stop()
    assert watching.join(SOON_S)
    assert told.qsize() == 3, "what changed in between is not known, so it is told"


def test_a_broken_connection_is_opened_again_from_the_same_version() -> None:
    failures: list[Script] = [DriverUnavailable("away."), OSError("reset"), ValueError("no JSON")]
    api = ScriptedApi(failures)
    watching = watch(api, queue.Queue())
    assert api.asks(5) == ["list 100", *["watch 100"] * 4]
    watching.stop()
    assert watching.join(SOON_S)


def test_it_ends_while_it_waits() -> None:
    api = ScriptedApi([])
    watching = watch(api, queue.Queue())
    assert api.asks(2) == ["list 100", "watch 100"]
    watching.stop()
    assert watching.join(SOON_S)
