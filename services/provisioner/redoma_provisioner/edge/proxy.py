"""One Envoy as the control plane sees it: what it is served, who watches that, and how current it is."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.record import SnapshotRecord
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import Session


class Proxy:
    """An Envoy of this site.

    Attributes:
        name: "edge", "egress" or "gateway".
        peer: SPIFFE id in its certificate.
        served: What it is served; None before the first snapshot.
        record: What is said of that.
        withheld: Why a newer snapshot is not served; empty if none is withheld.
        session: Its newest stream to this process, which may have ended; None before the first.
    """

    def __init__(self, name: str, peer: str, metrics: EdgeMetrics) -> None:
        self.name = name
        self.peer = peer
        self.served: Served | None = None
        self.record: SnapshotRecord | None = None
        self.withheld = ""
        self.session: Session | None = None
        self._metrics = metrics
        self._watches: set[asyncio.Event] = set()

    @property
    def connected(self) -> bool:
        """Whether a stream of it is open to this process."""
        return bool(self._watches)

    def serve(self, served: Served, record: SnapshotRecord) -> None:
        """Serves a snapshot from now on."""
        self.served, self.record = served, record
        for watch in self._watches:
            watch.set()

    def withhold(self, why: str) -> None:
        """Takes note of why a newer snapshot is not served; empty is that there is none."""
        self.withheld = why
        self._metrics.withheld(self.name, bool(why))

    @contextmanager
    def watched(self, session: Session) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever `served` is another, as long as the stream is open."""
        watch = asyncio.Event()
        self._watches.add(watch)
        self.session = session
        self._metrics.connected(self.name, len(self._watches))
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            self._metrics.connected(self.name, len(self._watches))
