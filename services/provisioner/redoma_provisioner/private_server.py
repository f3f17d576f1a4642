"""Puts the provisioner of a private site together."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version

import structlog
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from redoma.provisioner.v1.membership_pb2_grpc import add_MembershipServiceServicer_to_server
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.periodic import Periodic
from redoma_kit.policy import EGRESS, spiffe_id
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.drivers import open_private_driver
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import GatewayPublisher, Publisher
from redoma_provisioner.errors import ERRORS, CannotStart
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import DesiredLink, DriverKind
from redoma_provisioner.network.driving import Driving
from redoma_provisioner.network.metrics import NetworkMetrics
from redoma_provisioner.network.private_reconciler import PrivateReconciler, PrivateSite, exposed_connectors
from redoma_provisioner.network.site_conditions import LINKED
from redoma_provisioner.network.view import LINK
from redoma_provisioner.policy import DISCOVERY_METHODS, private_policy
from redoma_provisioner.schema import MIGRATIONS, SCHEMA, SERVICE
from redoma_provisioner.servicers.discovery import DiscoveryServicer
from redoma_provisioner.servicers.membership import MembershipServicer
from redoma_provisioner.settings import ProvisionerSettings, ProxySettings
from redoma_provisioner.store.snapshots import SqlSnapshotStore
from redoma_provisioner.trust.keeper import KeptTrust, TrustKeeper
from redoma_provisioner.trust.membership import Membership, MembershipState
from redoma_provisioner.trust.membership_files import MembershipFiles
from redoma_provisioner.trust.names import GATEWAY
from redoma_provisioner.trust.standing_file import JoinError, StandingFile

# How often the file that shows how the site stands is compared with that.
STANDING_INTERVAL_S = 5.0


class PrivateServer:
    """A private site's provisioner in one process. `start`, then `serve_until_stopped`.

    Raises:
        CannotStart: The site has not joined, a setting is missing, or a file can't be used.
    """

    def __init__(
        self, settings: ProvisionerSettings, log: structlog.stdlib.BoundLogger, now: Callable[[], datetime]
    ) -> None:
        if settings.membership_dir is None:
            raise CannotStart("The private role needs the setting membership_dir.")
        files = MembershipFiles(settings.membership_dir)
        self._keeper = TrustKeeper(files, now)
        self._standing_file = StandingFile(settings.membership_dir)
        self._now = now
        kept = self._keeper.kept
        exposed = _exposed(settings, kept.site)
        self._standing = Periodic("standing of the site", STANDING_INTERVAL_S, self._write_standing, log)
        self.membership = MembershipState(Membership(kept, exposed_connectors(exposed)), now, self._standing.wake)
        telemetry = Telemetry(SERVICE, settings.metrics, settings.tracing)
        metrics = EdgeMetrics(telemetry)
        self.database = Database(settings.database_url, log, SCHEMA, settings.database_connections)
        self._gateway = Proxy(GATEWAY, spiffe_id(kept.site, GATEWAY), metrics)
        self._publisher = Publisher(Encoder(envoy_descriptors()), SqlSnapshotStore(self.database), now, log)
        driver = open_private_driver(settings, kept, now, log)
        self._reconciler = PrivateReconciler(
            PrivateSite(
                kept.site, DesiredLink(LINK, kept.link_address, files.read_link()), exposed, settings.gateway.tunnels
            ),
            Driving(driver, kept.site, time.monotonic, NetworkMetrics(telemetry).of_driver(driver.kind), log),
            GatewayPublisher(self._publisher, self._gateway, _gateway_files(settings, kept), settings.max_stream_s),
            self.membership,
            now,
            log,
        )
        self.grpc = GrpcServer(
            settings.model_copy(update={"forwarders": settings.forwarders or _forwarders(kept)}),
            private_policy(kept.site),
            ERRORS,
            IdentityVerifier(settings.jwks_file, SERVICE, lambda: now().timestamp()),
            telemetry,
            log,
            quiet=DISCOVERY_METHODS,
        )
        membership = MembershipServicer(self.membership, self._keeper, now, version("redoma"), self.grpc.drain)
        discovery = DiscoveryServicer([self._gateway], self.grpc.drain, metrics, now, log)
        self.grpc.add(
            partial(add_MembershipServiceServicer_to_server, membership), "redoma.provisioner.v1.MembershipService"
        )
        self.grpc.add(
            partial(add_AggregatedDiscoveryServiceServicer_to_server, discovery),
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
        )

    async def start(self) -> None:
        """Brings the schema up to date, serves the gateway what it had last, and begins.

        Raises:
            SchemaNotReady: The database can't be reached or brought up to date.
            AddressInUse: The address can't be bound.
            StorageUnavailable: The database went away.
        """
        try:
            await self.database.upgrade(MIGRATIONS)
            await self._publisher.resume(self._gateway)
            await self.grpc.start()
        except BaseException:
            await self.database.close()
            raise
        self._reconciler.start()
        self._standing.start()
        await self.grpc.set_serving(True)

    async def _write_standing(self) -> None:
        await asyncio.to_thread(
            self._standing_file.update,
            self._keeper.kept,
            self.membership.linked_since,
            _link_problem(self.membership.membership),
            self._now(),
        )

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and closes everything."""
        await self.grpc.serve_until_stopped(self.close)

    async def close(self) -> None:
        """Ends what goes on by itself, and closes the database. The link stays as it is."""
        await self._reconciler.stop()
        await self._standing.stop()
        await self.database.close()


def _link_problem(membership: Membership) -> JoinError | None:
    """Gives why there is no link, as the driver has it; None where it sees one, or does not say."""
    for condition in membership.conditions:
        if condition.type == LINKED and condition.holds is False:
            return JoinError(condition.reason, condition.message, "")
    return None


def _exposed(settings: ProvisionerSettings, site: str) -> tuple[Connector, ...]:
    return tuple(Connector(site, f"{site}.{one.name}", one.service, one.target, one.tenant) for one in settings.exposed)


def _gateway_files(settings: ProvisionerSettings, kept: KeptTrust) -> ProxySettings:
    if GATEWAY in settings.proxies:
        return settings.proxies[GATEWAY]
    if kept.driver is DriverKind.EMBEDDED:
        raise CannotStart("The embedded driver needs proxies.gateway: the identity files of that Envoy.")
    # Nothing is made of them: no gateway carries this site's link.
    return ProxySettings(ca_file=settings.tls.ca_file, cert_file=settings.tls.cert_file, key_file=settings.tls.key_file)


def _forwarders(kept: KeptTrust) -> tuple[str, ...]:
    """Gives the proxies through which the public site calls."""
    if kept.driver is DriverKind.EMBEDDED:
        return (spiffe_id(kept.site, GATEWAY),)
    return tuple(EGRESS)
