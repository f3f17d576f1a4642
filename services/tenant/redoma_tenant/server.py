"""Puts the tenant service together, and the only place that knows all its parts."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from envoy.service.auth.v3 import external_auth_pb2_grpc

from redoma.tenant.v1 import (
    api_key_pb2_grpc,
    audit_pb2_grpc,
    meter_pb2_grpc,
    privacy_pb2_grpc,
    quota_pb2_grpc,
    tenant_pb2_grpc,
    usage_pb2_grpc,
    user_pb2_grpc,
)
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import PLATFORM_ADMIN, IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_tenant.api_keys import ApiKeys
from redoma_tenant.audit.book import AuditBook
from redoma_tenant.audit.heads import HeadKeys
from redoma_tenant.audit.repeats import Repeats
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.authenticator import Authenticator
from redoma_tenant.changes import ChangeFeed
from redoma_tenant.credential_cache import CredentialCache
from redoma_tenant.errors import ERRORS
from redoma_tenant.failures import Failures
from redoma_tenant.gate import Gate
from redoma_tenant.identity import IdentityMinter, Principal, load_signing_key
from redoma_tenant.identity_providers import IdentityProviders
from redoma_tenant.journal_channel import GrpcJournalChannel
from redoma_tenant.key_sign_in import KeySignIn, load_bootstrap_digest
from redoma_tenant.last_use import LastUses
from redoma_tenant.meter.watch import QuotaWatch
from redoma_tenant.metering import Metering
from redoma_tenant.oidc.directory import OidcDirectory
from redoma_tenant.oidc.fetcher import HttpFetcher
from redoma_tenant.oidc.sign_in import OidcSignIn
from redoma_tenant.plans import Plans
from redoma_tenant.policy import POLICY
from redoma_tenant.prices import Prices
from redoma_tenant.privacy_parts import PrivacyParts
from redoma_tenant.quota import Quotas
from redoma_tenant.servicers.api_keys import ApiKeyServicer
from redoma_tenant.servicers.audit import AuditServicer
from redoma_tenant.servicers.auditing import Auditing
from redoma_tenant.servicers.authorization import AuthorizationServicer
from redoma_tenant.servicers.exposed import edge_routes
from redoma_tenant.servicers.meter import MeterServicer
from redoma_tenant.servicers.own_changes import OwnChanges
from redoma_tenant.servicers.quota import QuotaServicer
from redoma_tenant.servicers.tenants import TenantServicer
from redoma_tenant.servicers.usage import UsageServicer
from redoma_tenant.servicers.users import UserServicer
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.audit import SqlAuditStore
from redoma_tenant.store.changes_feed import SqlChangeStore
from redoma_tenant.store.identity_providers import SqlIdentityProviderStore
from redoma_tenant.store.meter import SqlAccountStore
from redoma_tenant.store.plans import SqlPlanStore
from redoma_tenant.store.prices import SqlPriceStore
from redoma_tenant.store.quota import SqlQuotaStore
from redoma_tenant.store.reservations import SqlDueCallStore
from redoma_tenant.store.sign_in import SqlSignInStore
from redoma_tenant.store.tenants import SqlTenantStore
from redoma_tenant.store.usage import SqlUsageStore
from redoma_tenant.store.users import SqlUserStore
from redoma_tenant.tenants import DEFAULT_WEIGHT, Tenants
from redoma_tenant.usage import UsageBook
from redoma_tenant.users import Users

SERVICE = "tenant"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
MIGRATIONS = Path(__file__).parent / "migrations"
# Of PostgreSQL.
SCHEMA = "redoma_tenant"
# Who asks the model processes for their journals.
METER = Principal("platform/meter", "", frozenset({PLATFORM_ADMIN}), DEFAULT_WEIGHT)


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
        bootstrap_digest = load_bootstrap_digest(settings.bootstrap_admin_key_hash_file)
        self.database = Database(settings.database_url, log, SCHEMA, settings.database_connections)
        key_store = SqlApiKeyStore(self.database)
        self.last_uses = LastUses(key_store, now, log)
        audit_store, head_keys = SqlAuditStore(self.database), HeadKeys(signing_key, settings.jwks_file)
        self.trail = AuditTrail(audit_store, head_keys, log)
        self.denials = Repeats(self.trail, log)
        auditing = Auditing(POLICY, ERRORS, self.trail, self.denials, settings.trusted_hops, now)
        audit = AuditServicer(AuditBook(audit_store, head_keys))
        usage = UsageServicer(UsageBook(SqlUsageStore(self.database), now), settings.currency)
        sign_in_store, cache = SqlSignInStore(self.database), CredentialCache(now, time.monotonic)
        self.changes = ChangeFeed(
            SqlChangeStore(self.database),
            [lambda change: cache.forget(change.tenant, change.principal)],
            now,
            time.monotonic,
            log,
        )
        self.identity_documents = HttpFetcher()
        self.oidc_directory = OidcDirectory(self.identity_documents, time.monotonic, log)
        authenticator = Authenticator(
            KeySignIn(sign_in_store, bootstrap_digest, now),
            OidcSignIn(sign_in_store, self.oidc_directory, now),
            cache,
            self.changes,
        )
        failures = Failures(time.monotonic, asyncio.sleep)
        gate = Gate(edge_routes(POLICY), authenticator, failures, minter, self.last_uses, self.denials, ERRORS, now)
        tenants = TenantServicer(Tenants(SqlTenantStore(self.database), now))
        api_keys = ApiKeyServicer(ApiKeys(key_store, now), now)
        users = UserServicer(
            Users(SqlUserStore(self.database), now),
            IdentityProviders(SqlIdentityProviderStore(self.database), self.oidc_directory, now),
        )
        authorization = AuthorizationServicer(gate, ERRORS, settings.trusted_hops, log)
        verifier = IdentityVerifier(settings.jwks_file, SERVICE, lambda: now().timestamp())
        telemetry = Telemetry(SERVICE, settings.metrics, settings.tracing)
        self.model_channels = [
            open_channel(model, settings.tls, settings.max_message_bytes) for model in settings.models
        ]
        self.metering = Metering(
            SqlAccountStore(self.database),
            SqlDueCallStore(self.database),
            [
                GrpcJournalChannel(channel, lambda method: minter.mint(METER, METER.scopes, method, ("model",)))
                for channel in self.model_channels
            ],
            QuotaWatch(telemetry, log),
            now,
            log,
        )
        self.chat_channel = (
            None if settings.chat is None else open_channel(settings.chat, settings.tls, settings.max_message_bytes)
        )
        self.privacy = PrivacyParts(
            self.database,
            self.chat_channel,
            dict(zip((model.target for model in settings.models), self.model_channels, strict=True)),
            signing_key,
            minter,
            now,
            log,
        )
        quota = QuotaServicer(
            Quotas(SqlQuotaStore(self.database), now),
            Plans(SqlPlanStore(self.database), now),
            Prices(SqlPriceStore(self.database)),
            settings.currency,
        )
        self.grpc = GrpcServer(
            settings,
            POLICY,
            ERRORS,
            verifier,
            telemetry,
            log,
            witnesses=[auditing, OwnChanges(POLICY, self.changes)],
            # The edge's own log has each request, and a refusal has a line of its own.
            quiet=[CHECK],
        )
        self.grpc.add(
            lambda server: tenant_pb2_grpc.add_TenantServiceServicer_to_server(tenants, server),
            "redoma.tenant.v1.TenantService",
        )
        self.grpc.add(
            lambda server: api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server(api_keys, server),
            "redoma.tenant.v1.ApiKeyService",
        )
        self.grpc.add(
            lambda server: user_pb2_grpc.add_UserServiceServicer_to_server(users, server),
            "redoma.tenant.v1.UserService",
        )
        meter = MeterServicer(self.metering.meter, self.changes, self.grpc.drain)
        self.grpc.add(
            lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server),
            "redoma.tenant.v1.QuotaService",
        )
        self.grpc.add(
            lambda server: meter_pb2_grpc.add_MeterServiceServicer_to_server(meter, server),
            "redoma.tenant.v1.MeterService",
        )
        self.grpc.add(
            lambda server: usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, server),
            "redoma.tenant.v1.UsageService",
        )
        self.grpc.add(
            lambda server: audit_pb2_grpc.add_AuditServiceServicer_to_server(audit, server),
            "redoma.tenant.v1.AuditService",
        )
        self.grpc.add(
            lambda server: privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(self.privacy.servicer, server),
            "redoma.tenant.v1.PrivacyService",
        )
        self.grpc.add(
            lambda server: external_auth_pb2_grpc.add_AuthorizationServicer_to_server(authorization, server),
            "envoy.service.auth.v3.Authorization",
        )

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
        self.trail.start()
        self.changes.start()
        self.metering.start()
        self.denials.start()
        self.last_uses.start()
        self.privacy.start()
        await self.grpc.set_serving(True)

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and keeps what is not yet written."""
        await self.grpc.serve_until_stopped(self.close)

    async def close(self) -> None:
        """Writes what is left to write and closes the database."""
        await self.privacy.stop()
        if self.chat_channel is not None:
            await self.chat_channel.close()
        await self.denials.stop()
        await self.trail.stop()
        await self.metering.stop()
        for channel in self.model_channels:
            await channel.close()
        await self.changes.stop()
        await self.oidc_directory.stop()
        await self.identity_documents.close()
        await self.last_uses.stop()
        await self.database.close()
