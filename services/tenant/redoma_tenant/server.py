"""Puts the tenant service together, and the only place that knows all its parts."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import structlog
from envoy.service.auth.v3.external_auth_pb2_grpc import add_AuthorizationServicer_to_server

from redoma.tenant.v1.api_key_pb2_grpc import add_ApiKeyServiceServicer_to_server
from redoma.tenant.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from redoma.tenant.v1.meter_pb2_grpc import add_MeterServiceServicer_to_server
from redoma.tenant.v1.privacy_pb2_grpc import add_PrivacyServiceServicer_to_server
from redoma.tenant.v1.quota_pb2_grpc import add_QuotaServiceServicer_to_server
from redoma.tenant.v1.tenant_pb2_grpc import add_TenantServiceServicer_to_server
from redoma.tenant.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server
from redoma.tenant.v1.user_pb2_grpc import add_UserServiceServicer_to_server
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_tenant.api_keys import ApiKeys
from redoma_tenant.audit_parts import AuditParts
from redoma_tenant.errors import ERRORS
from redoma_tenant.identity import IdentityMinter, load_signing_key
from redoma_tenant.identity_providers import IdentityProviders
from redoma_tenant.meter.watch import QuotaWatch
from redoma_tenant.metering import Metering
from redoma_tenant.model_parts import ModelParts
from redoma_tenant.plans import Plans
from redoma_tenant.policy import POLICY
from redoma_tenant.prices import Prices
from redoma_tenant.privacy_parts import PrivacyParts
from redoma_tenant.quota import Quotas
from redoma_tenant.reconciliation import NoJournals
from redoma_tenant.servicers.api_keys import ApiKeyServicer
from redoma_tenant.servicers.meter import MeterServicer
from redoma_tenant.servicers.quota import QuotaServicer
from redoma_tenant.servicers.tenants import TenantServicer
from redoma_tenant.servicers.usage import UsageServicer
from redoma_tenant.servicers.users import UserServicer
from redoma_tenant.settings import TenantSettings
from redoma_tenant.sign_in_parts import SignInParts
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.identity_providers import SqlIdentityProviderStore
from redoma_tenant.store.meter import SqlAccountStore
from redoma_tenant.store.plans import SqlPlanStore
from redoma_tenant.store.prices import SqlPriceStore
from redoma_tenant.store.quota import SqlQuotaStore
from redoma_tenant.store.reservations import SqlDueCallStore
from redoma_tenant.store.tenants import SqlTenantStore
from redoma_tenant.store.usage import SqlUsageStore
from redoma_tenant.store.users import SqlUserStore
from redoma_tenant.tenants import Tenants
from redoma_tenant.usage import UsageBook
from redoma_tenant.users import Users

SERVICE = "tenant"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
MIGRATIONS = Path(__file__).parent / "migrations"
# Of PostgreSQL.
SCHEMA = "redoma_tenant"


def utc_now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


class TenantServer:
    """The whole service in one process. `start`, then `serve_until_stopped`.

    Raises:
        CannotStart: A file it needs can't be used.
    """

    def __init__(
        self, settings: TenantSettings, log: structlog.stdlib.BoundLogger, now: Callable[[], datetime] = utc_now
    ) -> None:
        signing_key = load_signing_key(settings.signing_key_file, settings.jwks_file)
        minter = IdentityMinter(signing_key, now)
        telemetry = Telemetry(SERVICE, settings.metrics, settings.tracing)
        self.database = Database(settings.database_url, log, SCHEMA, settings.database_connections)
        self.audit = AuditParts(self.database, signing_key, settings, now, log)
        self.sign_in = SignInParts(self.database, minter, self.audit.denials, settings, now, log)
        self._channels: list[grpc.aio.Channel] = []
        chat, egress, provisioner = (
            self._channel(upstream, settings) for upstream in (settings.chat, settings.egress, settings.provisioner)
        )
        self.models = None if egress is None or provisioner is None else ModelParts(egress, provisioner, minter, log)
        self.metering = Metering(
            SqlAccountStore(self.database),
            SqlDueCallStore(self.database),
            NoJournals() if self.models is None else self.models.journals,
            QuotaWatch(telemetry, log),
            now,
            log,
        )
        self.privacy = PrivacyParts(
            self.database, chat, None if self.models is None else self.models.place, signing_key, now, log
        )
        self.grpc = GrpcServer(
            settings,
            POLICY,
            ERRORS,
            IdentityVerifier(settings.jwks_file, SERVICE, lambda: now().timestamp()),
            telemetry,
            log,
            witnesses=[self.audit.witness, self.sign_in.witness],
            admitted=[self.audit.witness.admitted],
            # The edge's own log has each request, and a refusal has a line of its own.
            quiet=[CHECK],
        )
        for name, register in self._servicers(settings, now).items():
            self.grpc.add(register, name)

    def _channel(self, upstream: UpstreamSettings | None, settings: TenantSettings) -> grpc.aio.Channel | None:
        """Gives a channel, to be closed with the service, where another service is configured."""
        if upstream is None:
            return None
        channel = open_channel(upstream, settings.tls, settings.max_message_bytes)
        self._channels.append(channel)
        return channel

    def _servicers(
        self, settings: TenantSettings, now: Callable[[], datetime]
    ) -> Mapping[str, Callable[[grpc.aio.Server], None]]:
        """Gives what adds each servicer to a server, by the name of its service."""
        database = self.database
        providers = IdentityProviders(SqlIdentityProviderStore(database), self.sign_in.directory, now)
        tenants = TenantServicer(Tenants(SqlTenantStore(database), now))
        api_keys = ApiKeyServicer(ApiKeys(SqlApiKeyStore(database), now), now)
        users = UserServicer(Users(SqlUserStore(database), now), providers)
        quota = QuotaServicer(
            Quotas(SqlQuotaStore(database), now),
            Plans(SqlPlanStore(database), now),
            Prices(SqlPriceStore(database)),
            settings.currency,
        )
        usage = UsageServicer(UsageBook(SqlUsageStore(database), now), settings.currency)
        meter = MeterServicer(self.metering.meter, self.sign_in.changes, self.grpc.drain)
        return {
            "redoma.tenant.v1.TenantService": partial(add_TenantServiceServicer_to_server, tenants),
            "redoma.tenant.v1.ApiKeyService": partial(add_ApiKeyServiceServicer_to_server, api_keys),
            "redoma.tenant.v1.UserService": partial(add_UserServiceServicer_to_server, users),
            "redoma.tenant.v1.QuotaService": partial(add_QuotaServiceServicer_to_server, quota),
            "redoma.tenant.v1.MeterService": partial(add_MeterServiceServicer_to_server, meter),
            "redoma.tenant.v1.UsageService": partial(add_UsageServiceServicer_to_server, usage),
            "redoma.tenant.v1.AuditService": partial(add_AuditServiceServicer_to_server, self.audit.servicer),
            "redoma.tenant.v1.PrivacyService": partial(add_PrivacyServiceServicer_to_server, self.privacy.servicer),
            "envoy.service.auth.v3.Authorization": partial(add_AuthorizationServicer_to_server, self.sign_in.servicer),
        }

    async def start(self) -> None:
        """Brings the schema up to date and begins to serve.

        Raises:
            SchemaNotReady: The database can't be reached or brought up to date.
            AddressInUse: The address can't be bound.
        """
        try:
            await self.database.upgrade(MIGRATIONS)
            await self.grpc.start()
        except BaseException:
            await self.database.close()
            raise
        self.audit.start()
        self.sign_in.start()
        if self.models is not None:
            self.models.replicas.start()
        self.metering.start()
        self.privacy.start()
        await self.grpc.set_serving(True)

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and keeps what is not yet written."""
        await self.grpc.serve_until_stopped(self.close)

    async def close(self) -> None:
        """Writes what is left to write and closes the database."""
        await self.privacy.stop()
        await self.audit.stop()
        await self.metering.stop()
        if self.models is not None:
            await self.models.replicas.stop()
        await self.sign_in.stop()
        for channel in self._channels:
            await channel.close()
        await self.database.close()
