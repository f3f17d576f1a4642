"""Puts the public site's side of the network together."""

from collections.abc import Callable
from datetime import datetime

import grpc
import structlog

from redoma_kit.database import Database
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.network.driver import NetworkDriver
from redoma_provisioner.network.driving import Driving
from redoma_provisioner.network.membership_channel import GrpcMembershipChannel
from redoma_provisioner.network.memberships import Memberships
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.reconciler import EdgePublisher, Reconciler, TrustSequence
from redoma_provisioner.network.sites import Expulsion, Sites
from redoma_provisioner.network.standings import Standings
from redoma_provisioner.store.connectors import SqlConnectorStore
from redoma_provisioner.store.sites import SqlSiteStore
from redoma_provisioner.trust.names import PUBLIC_SITE


class NetworkParts:
    """The reconciler and what it works with. `start` once the schema is up to date.

    Attributes:
        standings: How private sites stand.
        channel: What reaches their provisioners.
        reconciler: The loop.
        sites: What people do with sites.
    """

    def __init__(
        self,
        database: Database,
        driver: NetworkDriver,
        publisher: EdgePublisher,
        egress: grpc.aio.Channel,
        trust: TrustSequence,
        expulsion: Expulsion,
        telemetry: Telemetry,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        store, metrics = SqlSiteStore(database), NetworkMetrics(telemetry)
        self.standings = Standings()
        self.channel = GrpcMembershipChannel(egress)
        self._driver = driver
        self._memberships = Memberships(self.channel, SqlConnectorStore(database), store, self.standings, now, log)
        self.reconciler = Reconciler(
            store,
            Driving(driver, PUBLIC_SITE, monotonic, metrics.of_driver(driver.kind), log),
            publisher,
            self._memberships,
            self.standings,
            trust,
            metrics,
            now,
            monotonic,
            log,
        )
        self._memberships.on_change(self.reconciler.wake)
        self.sites = Sites(store, expulsion, self.reconciler.wake, now)

    async def start(self) -> None:
        """Begins.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        await self.sites.begin(self._driver.kind)
        self._memberships.start()
        self.reconciler.start()

    async def stop(self) -> None:
        """Ends. The network stays as it is."""
        await self.reconciler.stop()
        await self._memberships.stop()
