"""How many requests an engine takes: a bound for all tenants together and one for each."""

import threading
from collections.abc import Callable

from redoma_kit.errors import ShuttingDown
from redoma_model.errors import QueueFull


class Room:
    """Counts the requests that were accepted and have not ended, by tenant. Any thread may call it.

    Two bounds hold. All tenants together may have as many requests as run at once and `max_waiting` beyond. One tenant
    may have as many as run at once and `max_waiting_per_tenant` beyond, so that one alone can still fill every slot and
    yet never takes all the room to wait in: as long as its bound is the lower one, others find theirs.

    Attributes:
        slots: How many requests run at once; 0 until the model is loaded.
    """

    def __init__(self, max_waiting: int, max_waiting_per_tenant: int) -> None:
        self._max_waiting = max_waiting
        self._max_waiting_per_tenant = max_waiting_per_tenant
        self._lock = threading.Lock()
        self._all = 0
        self._by_tenant: dict[str, int] = {}
        self.slots = 0
        self._closed = False

    def check(self, tenant: str, coming: int = 0) -> None:
        """Raises QueueFull when one more request would be too many, after `coming` others of anybody's."""
        with self._lock:
            self._check(tenant, coming)

    def enter(self, tenant: str, put: Callable[[], None]) -> None:
        """Counts a request in and puts it where the thread finds it. Raises QueueFull, or ShuttingDown once closed."""
        with self._lock:
            if self._closed:
                raise ShuttingDown()
            self._check(tenant, 0)
            self._all += 1
            self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + 1
            # Under the lock: what is put was put before the room was closed, so that it is found and ended.
            put()

    def leave(self, tenant: str) -> None:
        """Counts a request out."""
        with self._lock:
            self._all -= 1
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]

    def close(self) -> None:
        """Lets no more requests in."""
        with self._lock:
            self._closed = True

    def _check(self, tenant: str, coming: int) -> None:
        if self._by_tenant.get(tenant, 0) >= self.slots + self._max_waiting_per_tenant:
            raise QueueFull(self._max_waiting_per_tenant, of_tenant=True)
        if self._all + coming >= self.slots + self._max_waiting:
            raise QueueFull(self._max_waiting)
