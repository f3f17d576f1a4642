"""Makes snapshots of the Envoys, and serves those that are valid."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.encoding import Encoder
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.record import SnapshotRecord, SnapshotStore, changes_between
from redoma_provisioner.edge.references import check_references
from redoma_provisioner.edge.resources.edge import edge_snapshot
from redoma_provisioner.edge.resources.egress import egress_snapshot
from redoma_provisioner.edge.resources.gateway import gateway_snapshot
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.snapshot import InvalidSnapshot, Snapshot
from redoma_provisioner.edge.state import EgressState, GatewayState
from redoma_provisioner.settings import EdgeSettings, EgressSettings, ProxySettings

Build = Callable[[], Snapshot]


class Publisher:
    """Serves the snapshots of Envoys.

    A snapshot is checked, and kept, before it is served; one that is not valid is withheld, and the former one served
    on. The same state makes the same snapshot in every process, so that several of them agree.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: SnapshotStore,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._encoder = encoder
        self._store = store
        self._now = now
        self._log = log
        self._lock = asyncio.Lock()

    async def resume(self, proxy: Proxy) -> None:
        """Serves the snapshot that was served last, if there is one that can still be served.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        kept = await self._store.newest(proxy.name)
        if kept is None or proxy.served is not None:
            return
        record, snapshot = kept
        try:
            served = await asyncio.to_thread(self._checked, snapshot, None)
        except InvalidSnapshot as error:
            self._log.warning("the snapshot served last is not valid any more", proxy=proxy.name, problem=str(error))
            return
        proxy.serve(served, record)

    async def publish(self, proxy: Proxy, build: Build, cause: str) -> None:
        """Serves what `build` makes, unless it is what is served or is not valid; `cause` says why it is made.

        Raises:
            StorageUnavailable: It can't be kept, so it is not served.
        """
        async with self._lock:
            former = proxy.served
            try:
                served = await asyncio.to_thread(lambda: self._checked(build(), former))
            except InvalidSnapshot as error:
                if proxy.withheld != str(error):
                    self._log.error("a snapshot is withheld", proxy=proxy.name, cause=cause, problem=str(error))
                proxy.withhold(str(error))
                return
            snapshot = served.snapshot
            if former is None or snapshot.version != former.snapshot.version:
                changes = changes_between(None if former is None else former.snapshot, snapshot)
                record = SnapshotRecord(snapshot.version, self._now(), cause, changes)
                await self._store.add(proxy.name, record, snapshot)
                proxy.serve(served, record)
                self._log.info("a snapshot is served", proxy=proxy.name, version=snapshot.version, cause=cause)
            proxy.withhold("")

    def _checked(self, snapshot: Snapshot, former: Served | None) -> Served:
        encoded = self._encoder.encode_snapshot(snapshot, {} if former is None else former.encoded)
        check_references(snapshot)
        return Served(snapshot, encoded)


class EgressPublisher:
    """Publishes what the egress leads to. `authorities` is the file of those who sign the certificates of sites."""

    def __init__(
        self,
        publisher: Publisher,
        proxy: Proxy,
        settings: EgressSettings,
        provisioner: UpstreamSettings,
        files: ProxySettings,
        max_stream_s: float,
        authorities: Path,
    ) -> None:
        self._publisher = publisher
        self._proxy = proxy
        self._settings = settings
        self._authorities = authorities
        self._provisioner = provisioner
        self._files = files
        self._max_stream_s = max_stream_s

    async def publish(self, state: EgressState, cause: str) -> None:
        """Has the egress lead there; `cause` says why, such as "site hospital-a joined".

        Raises:
            StorageUnavailable: It can't be kept, so it is not served.
            OSError: The authorities can't be read.
        """

        def build() -> Snapshot:
            authorities = self._authorities.read_text()
            return egress_snapshot(
                self._settings, self._provisioner, self._files, self._max_stream_s, authorities, state
            )

        await self._publisher.publish(self._proxy, build, cause)


class GatewayPublisher:
    """Publishes what the gateway does."""

    def __init__(self, publisher: Publisher, proxy: Proxy, files: ProxySettings, max_stream_s: float) -> None:
        self._publisher = publisher
        self._proxy = proxy
        self._files = files
        self._max_stream_s = max_stream_s

    async def publish(self, state: GatewayState, cause: str) -> None:
        """Has the gateway do that; `cause` says why.

        Raises:
            StorageUnavailable: It can't be kept, so it is not served.
        """
        await self._publisher.publish(
            self._proxy, lambda: gateway_snapshot(self._files, state, self._max_stream_s), cause
        )


async def publish_edge(
    publisher: Publisher, proxy: Proxy, settings: EdgeSettings, files: ProxySettings, max_stream_s: float
) -> None:
    """Serves the edge, which settings alone decide.

    Raises:
        StorageUnavailable: It can't be kept, so it is not served.
    """
    await publisher.publish(proxy, lambda: edge_snapshot(settings, files, max_stream_s), "settings of the edge")
