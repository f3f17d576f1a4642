"""Puts the tenant service together, and the only place that knows all its parts."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from envoy.service.auth.v3 import external_auth_pb2_grpc

from redoma.tenant.v1 import api_key_pb2_grpc, tenant_pb2_grpc
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry
from redoma_tenant.api_keys import ApiKeys
from redoma_tenant.authenticator import Authenticator, load_bootstrap_digest
from redoma_tenant.errors import ERRORS
from redoma_tenant.gate import Gate
from redoma_tenant.identity import IdentityMinter, load_signing_key
from redoma_tenant.last_use import LastUses
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.api_keys import ApiKeyServicer
from redoma_tenant.servicers.authorization import AuthorizationServicer
from redoma_tenant.servicers.exposed import edge_routes
from redoma_tenant.servicers.tenants import TenantServicer
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.tenants import SqlTenantStore
from redoma_tenant.tenants import Tenants

SERVICE = "tenant"
MIGRATIONS = Path(__file__).parent / "migrations"


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
        minter = IdentityMinter(load_signing_key(settings.signing_key_file, settings.jwks_file), now)
        bootstrap_digest = load_bootstrap_digest(settings.bootstrap_admin_key_hash_file)
        self.database = Database(settings.database_url, log)
        key_store = SqlApiKeyStore(self.database)
        self.last_uses = LastUses(key_store, now, log)
        gate = Gate(edge_routes(POLICY), Authenticator(key_store, bootstrap_digest, now), minter, self.last_uses)
        tenants = TenantServicer(Tenants(SqlTenantStore(self.database), now))
        api_keys = ApiKeyServicer(ApiKeys(key_store, now), now)
        authorization = AuthorizationServicer(gate, ERRORS, log)
        verifier = IdentityVerifier(settings.jwks_file, SERVICE, lambda: now().timestamp())
        telemetry = Telemetry(SERVICE, settings.metrics, settings.tracing)
        self.grpc = GrpcServer(settings, POLICY, ERRORS, verifier, telemetry, log)
        self.grpc.add(
            lambda server: tenant_pb2_grpc.add_TenantServiceServicer_to_server(tenants, server),
            "redoma.tenant.v1.TenantService",
        )
        self.grpc.add(
            lambda server: api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server(api_keys, server),
            "redoma.tenant.v1.ApiKeyService",
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
        self.last_uses.start()
        await self.grpc.set_serving(True)

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and keeps what is not yet written."""
        await self.grpc.serve_until_stopped(self.close)

    async def close(self) -> None:
        """Writes the last uses and closes the database."""
        await self.last_uses.stop()
        await self.database.close()
