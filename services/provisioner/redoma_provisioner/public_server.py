"""Puts the provisioner of the public site together."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import grpc
import structlog
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from redoma.provisioner.v1.edge_pb2_grpc import add_EdgeServiceServicer_to_server
from redoma.provisioner.v1.network_pb2_grpc import add_NetworkServiceServicer_to_server
from redoma.provisioner.v1.operation_pb2_grpc import add_OperationServiceServicer_to_server
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.policy import spiffe_id
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.drivers import open_public_driver
from redoma_provisioner.edge.bootstrap import EDGE, EGRESS
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import EgressPublisher, Publisher, publish_edge
from redoma_provisioner.errors import ERRORS, CannotStart
from redoma_provisioner.network.rotations import KIND, RotationExecutor, Rotations
from redoma_provisioner.network_parts import NetworkParts
from redoma_provisioner.operation_parts import OperationParts
from redoma_provisioner.policy import DISCOVERY_METHODS, PUBLIC_POLICY
from redoma_provisioner.schema import MIGRATIONS, SCHEMA, SERVICE
from redoma_provisioner.servicers.discovery import DiscoveryServicer
from redoma_provisioner.servicers.edge import EdgeServicer
from redoma_provisioner.servicers.link_grants import LinkGrantServicer
from redoma_provisioner.servicers.network import NetworkServicer
from redoma_provisioner.servicers.operations import OperationServicer
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.store.snapshots import SqlSnapshotStore
from redoma_provisioner.trust.identity_keys import IdentityKeys
from redoma_provisioner.trust.names import PUBLIC_SITE
from redoma_provisioner.trust_parts import TrustParts


class PublicServer:
    """The public site's provisioner in one process. `start`, then `serve_until_stopped`.

    Raises:
        CannotStart: A setting is missing, or a file it needs can't be used.
    """

    def __init__(
        self, settings: ProvisionerSettings, log: structlog.stdlib.BoundLogger, now: Callable[[], datetime]
    ) -> None:
        authority, join, edge, egress = settings.authority, settings.join, settings.edge, settings.egress
        if authority is None or join is None or edge is None or egress is None:
            raise CannotStart("The public role needs the settings authority, join, edge and egress.")
        for proxy in (EDGE, EGRESS):
            if proxy not in settings.proxies:
                raise CannotStart(f"The public role needs proxies.{proxy}: the identity files of that Envoy.")
        telemetry = Telemetry(SERVICE, settings.metrics, settings.tracing)
        self.database = Database(settings.database_url, log, SCHEMA, settings.database_connections)
        self._snapshots = SqlSnapshotStore(self.database)
        self._edge_metrics = EdgeMetrics(telemetry)
        self._proxies = {name: Proxy(name, spiffe_id(PUBLIC_SITE, name), self._edge_metrics) for name in (EDGE, EGRESS)}
        self._publisher = Publisher(Encoder(envoy_descriptors()), self._snapshots, now, log)
        self._publish_edge = partial(
            publish_edge, self._publisher, self._proxies[EDGE], edge, settings.proxies[EDGE], settings.max_stream_s
        )
        self._egress_channel = open_channel(edge.egress, settings.tls, settings.max_message_bytes)
        driver = open_public_driver(settings, join.address, self._egress_channel, now, log)
        self.trust = TrustParts(self.database, authority, IdentityKeys(settings.jwks_file), now, time.monotonic, log)
        publisher = EgressPublisher(
            self._publisher,
            self._proxies[EGRESS],
            egress,
            edge.provisioner,
            settings.proxies[EGRESS],
            settings.max_stream_s,
            settings.tls.ca_file,
        )
        self.network = NetworkParts(
            self.database,
            driver,
            publisher,
            self._egress_channel,
            self.trust.bundles,
            self.trust.revocation,
            telemetry,
            now,
            time.monotonic,
            log,
        )
        rotator = self.trust.rotator(self.network)
        self._operations = OperationParts(self.database, {KIND: RotationExecutor(rotator)}, now, log)
        self._rotations = Rotations(self._operations.operations, rotator)
        self.trust.connect(self.network, self._rotations)
        self.grpc = GrpcServer(
            settings,
            PUBLIC_POLICY,
            ERRORS,
            IdentityVerifier(settings.jwks_file, SERVICE, lambda: now().timestamp()),
            telemetry,
            log,
            quiet=DISCOVERY_METHODS,
        )
        for name, register in self._servicers(self.trust.servicer(driver, join.address), now, log).items():
            self.grpc.add(register, name)

    def _servicers(
        self, grants: LinkGrantServicer, now: Callable[[], datetime], log: structlog.stdlib.BoundLogger
    ) -> Mapping[str, Callable[[grpc.aio.Server], None]]:
        """Gives what adds each servicer to a server, by the name of its service."""
        drain, proxies = self.grpc.drain, self._proxies.values()
        network = NetworkServicer(self.network.sites, self.network.reconciler, self._rotations, grants, drain)
        operations = OperationServicer(self._operations.operations, drain)
        edge = EdgeServicer(proxies, self._snapshots)
        discovery = DiscoveryServicer(proxies, drain, self._edge_metrics, now, log)
        return {
            "redoma.provisioner.v1.NetworkService": partial(add_NetworkServiceServicer_to_server, network),
            "redoma.provisioner.v1.OperationService": partial(add_OperationServiceServicer_to_server, operations),
            "redoma.provisioner.v1.EdgeService": partial(add_EdgeServiceServicer_to_server, edge),
            "envoy.service.discovery.v3.AggregatedDiscoveryService": partial(
                add_AggregatedDiscoveryServiceServicer_to_server, discovery
            ),
        }

    async def start(self) -> None:
        """Brings the schema up to date, serves the Envoys what they had last, and begins.

        Raises:
            SchemaNotReady: The database can't be reached or brought up to date.
            AddressInUse: The address can't be bound.
            StorageUnavailable: The database went away.
        """
        try:
            await self.database.upgrade(MIGRATIONS)
            for proxy in self._proxies.values():
                await self._publisher.resume(proxy)
            await self._publish_edge()
            await self.grpc.start()
            await self.network.start()
        except BaseException:
            await self.database.close()
            raise
        self._operations.start()
        self.trust.start()
        await self.grpc.set_serving(True)

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and closes everything."""
        await self.grpc.serve_until_stopped(self.close)

    async def close(self) -> None:
        """Ends what goes on by itself, and closes the database. The network stays as it is."""
        await self.trust.stop()
        await self._operations.stop()
        await self.network.stop()
        await self._egress_channel.close()
        await self.database.close()
