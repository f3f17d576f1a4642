"""Puts together what decides at the edge who calls: keys, tokens, a cache of both, and the feed that keeps it true."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from redoma_kit.database import Database
from redoma_tenant.audit.repeats import Repeats
from redoma_tenant.authenticator import Authenticator
from redoma_tenant.changes import ChangeFeed
from redoma_tenant.credential_cache import CredentialCache
from redoma_tenant.errors import ERRORS
from redoma_tenant.failures import Failures
from redoma_tenant.gate import Gate
from redoma_tenant.identity import IdentityMinter
from redoma_tenant.key_sign_in import KeySignIn, load_bootstrap_digest
from redoma_tenant.last_use import LastUses
from redoma_tenant.oidc.directory import OidcDirectory
from redoma_tenant.oidc.fetcher import HttpFetcher
from redoma_tenant.oidc.sign_in import OidcSignIn
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.authorization import AuthorizationServicer
from redoma_tenant.servicers.exposed import edge_routes
from redoma_tenant.servicers.own_changes import OwnChanges
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.changes_feed import SqlChangeStore
from redoma_tenant.store.sign_in import SqlSignInStore


class SignInParts:
    """What the server adds, starts and stops.

    Attributes:
        changes: The feed of changes to what credentials stand for.
        directory: Keys of identity providers.
        last_uses: When keys were used last.
        witness: Sees every call of the server.
        servicer: Envoy's Authorization.
    """

    def __init__(
        self,
        database: Database,
        minter: IdentityMinter,
        denials: Repeats,
        settings: TenantSettings,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Puts it together, or raises CannotStart if the bootstrap key's file can't be used."""
        bootstrap_digest = load_bootstrap_digest(settings.bootstrap_admin_key_hash_file)
        store, cache = SqlSignInStore(database), CredentialCache(now, time.monotonic)
        self.changes = ChangeFeed(
            SqlChangeStore(database),
            [lambda change: cache.forget(change.tenant, change.principal)],
            now,
            time.monotonic,
            log,
        )
        self._documents = HttpFetcher()
        self.directory = OidcDirectory(self._documents, time.monotonic, log)
        authenticator = Authenticator(
            KeySignIn(store, bootstrap_digest, now),
            OidcSignIn(store, self.directory, now),
            cache,
            self.changes,
        )
        self.last_uses = LastUses(SqlApiKeyStore(database), now, log)
        failures = Failures(time.monotonic, asyncio.sleep)
        gate = Gate(edge_routes(POLICY), authenticator, failures, minter, self.last_uses, denials, ERRORS, now)
        self.servicer = AuthorizationServicer(gate, ERRORS, settings.trusted_hops, log)
        self.witness = OwnChanges(POLICY, self.changes)

    def start(self) -> None:
        """Begins to follow changes and to write last uses."""
        self.changes.start()
        self.last_uses.start()

    async def stop(self) -> None:
        """Stops, and writes what is left."""
        await self.changes.stop()
        await self.directory.stop()
        await self._documents.close()
        await self.last_uses.stop()
