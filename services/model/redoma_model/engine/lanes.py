"""The lanes there are: the base model's, and two of each LoRA adapter that is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import Backend
from redoma_model.engine.lane import BASE_LANE, POOLED_LANE, Lane
from redoma_model.engine.prefix_cache import PrefixCache
from redoma_model.engine.sequence import Request
from redoma_model.errors import AdapterNotFound


@dataclass(slots=True, eq=False)
class _Use:
    """A loaded adapter, its lanes, and how many requests use it."""

    adapter: LoadedAdapter
    lane: Lane
    pooled_lane: Lane
    requests: int = 0
    when_unused: list[Callable[[], None]] = field(default_factory=list)


class Lanes:
    """Loads and frees adapters, and says which lane a request is in. The engine's thread owns it."""

    def __init__(self, backend: Backend, cache: PrefixCache) -> None:
        self._backend = backend
        self._cache = cache
        self._uses: dict[str, _Use] = {}

    def load(self, adapter: LoadedAdapter, path: Path) -> LoadedAdapter:
        """Loads an adapter and gives it with its handle.

        Raises:
            AdapterFileError: It is no adapter of this model.
        """
        handle = self._backend.load_adapter(path)
        loaded = replace(adapter, handle=handle)
        lane = Lane(handle, adapter.scale)
        self._uses[adapter.digest] = _Use(loaded, lane, replace(lane, pooled=True))
        return loaded

    def unload(self, digest: str, done: Callable[[], None]) -> None:
        """Frees an adapter as soon as no request uses it, then calls `done`. New requests must not name it any more."""
        use = self._uses.get(digest)
        if use is None:
            done()
        else:
            use.when_unused.append(done)
            self._free_unused(use)

    def enter(self, request: Request) -> Lane:
        """Counts a request in and gives its lane.

        Raises:
            AdapterNotFound: Its adapter is not loaded; it is never computed on the base model instead.
        """
        if request.adapter is None:
            return POOLED_LANE if request.pooled else BASE_LANE
        use = self._uses.get(request.adapter.digest)
        if use is None:
            raise AdapterNotFound(request.adapter.digest)
        use.requests += 1
        return use.pooled_lane if request.pooled else use.lane

    def leave(self, request: Request) -> None:
        """Counts a request out."""
        if request.adapter is not None:
            use = self._uses[request.adapter.digest]
            use.requests -= 1
            self._free_unused(use)

    def requests(self) -> dict[str, int]:
        """Counts the requests by their adapter's digest."""
        return {digest: use.requests for digest, use in self._uses.items()}

    def _free_unused(self, use: _Use) -> None:
        if use.requests == 0 and use.when_unused:
            del self._uses[use.adapter.digest]
            self._cache.purge_adapter(use.adapter.digest)
            self._backend.free_adapter(use.adapter.handle)
            for done in use.when_unused:
                done()
