"""Puts together what tells of who did what: the chains, what is gathered before it is written, and who reads them."""

from collections.abc import Callable
from datetime import datetime

import structlog

from redoma_kit.database import Database
from redoma_tenant.audit.begun import BegunCalls
from redoma_tenant.audit.book import AuditBook
from redoma_tenant.audit.heads import HeadKeys
from redoma_tenant.audit.repeats import Repeats
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.errors import ERRORS
from redoma_tenant.identity import SigningKey
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.audit import AuditServicer
from redoma_tenant.servicers.auditing import Auditing
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.audit import SqlAuditStore
from redoma_tenant.store.begun import SqlBegunStore


class AuditParts:
    """What the server adds, starts and stops.

    Attributes:
        trail: Writes the chains.
        begun: Notes calls that are begun.
        denials: Gathers denied calls for it.
        witness: Sees every call of the server.
        servicer: AuditService.
    """

    def __init__(
        self,
        database: Database,
        signing_key: SigningKey,
        settings: TenantSettings,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        store, keys = SqlAuditStore(database), HeadKeys(signing_key, settings.jwks_file)
        self.trail = AuditTrail(store, keys, log)
        self.begun = BegunCalls(SqlBegunStore(database), self.trail, now, log)
        self.denials = Repeats(self.trail, log)
        self.witness = Auditing(POLICY, ERRORS, self.trail, self.begun, self.denials, settings.trusted_hops, now)
        self.servicer = AuditServicer(AuditBook(store, keys))

    def start(self) -> None:
        """Begins to write."""
        self.trail.start()
        self.begun.start()
        self.denials.start()

    async def stop(self) -> None:
        """Writes what is left and stops."""
        await self.begun.stop()
        await self.denials.stop()
        await self.trail.stop()
