"""What a private site says of itself, and whether the public site is listening: that is what Linked means."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.keeper import KeptTrust

REPEAT_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class Membership:
    """A private site at one moment.

    Attributes:
        kept: Whom it trusts, and until when its certificates last.
        connectors: What it exposes.
        conditions: What it says of itself.
        connector_conditions: What it says of its connectors, by routing key.
    """

    kept: KeptTrust
    connectors: tuple[ExposedConnector, ...] = ()
    conditions: tuple[Condition, ...] = ()
    connector_conditions: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)


class MembershipState:
    """Keeps what the site says of itself; others feed it. `changed` is told of all that is new, listeners included."""

    def __init__(
        self,
        membership: Membership,
        now: Callable[[], datetime],
        changed: Callable[[], None],
        repeat_interval_s: float = REPEAT_INTERVAL_S,
    ) -> None:
        self._membership = membership
        self._now = now
        self._changed = changed
        self._repeat_interval_s = repeat_interval_s
        self._next = asyncio.Event()
        self._listeners = 0
        self._linked_since: datetime | None = None

    @property
    def membership(self) -> Membership:
        """What the site says of itself."""
        return self._membership

    @property
    def linked_since(self) -> datetime | None:
        """Since when the public site listens without a break; None: it does not."""
        return self._linked_since

    def set(self, membership: Membership) -> None:
        """Says something else from now on."""
        if membership == self._membership:
            return
        self._membership = membership
        self._next.set()
        self._next = asyncio.Event()
        self._changed()

    async def watch(self) -> AsyncGenerator[Membership, None]:
        """Gives what the site says at once, at each change, and every `repeat_interval_s` seconds."""
        self._listen(1)
        try:
            while True:
                changed = self._next
                yield self._membership
                try:
                    async with asyncio.timeout(self._repeat_interval_s):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._listen(-1)

    def _listen(self, more: int) -> None:
        self._listeners += more
        if self._listeners == 0:
            self._linked_since = None
        elif self._linked_since is None:
            self._linked_since = self._now()
        else:
            return
        self._changed()
