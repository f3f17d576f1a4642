"""What several owners hold together, such as a model's weights: made once, freed with the last of them."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Held(Generic[T]):
    thing: T
    owners: int


class Shared(Generic[T]):
    """Things by key. Thread-safe; making is the caller's to serialise."""

    def __init__(self, free: Callable[[T], None]) -> None:
        self._free = free
        self._held: dict[Hashable, _Held[T]] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def take(self, key: Hashable) -> T | None:
        """Makes the caller an owner too and gives the thing; None when nobody holds it."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            held.owners += 1
            return held.thing

    def add(self, key: Hashable, thing: T) -> None:
        """Makes the caller the first owner of a thing."""
        with self._lock:
            self._held[key] = _Held(thing, 1)

    def give_back(self, key: Hashable) -> None:
        """Ends one ownership; the last one frees the thing."""
        with self._lock:
            held = self._held[key]
            held.owners -= 1
            if held.owners:
                return
            del self._held[key]
        self._free(held.thing)
