"""A way back in for who runs the machine, when every operator's key is lost."""

import asyncio
from datetime import UTC, datetime

import structlog

from redoma_kit.database import Database
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_tenant.api_key import ApiKeySettings
from redoma_tenant.api_keys import ApiKeys
from redoma_tenant.audit.chain import Event
from redoma_tenant.audit.heads import HeadKeys
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.identity import load_signing_key
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.audit import SqlAuditStore

ACTOR = "platform/machine"
ACTION = "redoma.tenant/MakeOperatorKey"
DISPLAY_NAME = "made on the machine"


def operator_key(settings: TenantSettings, schema: str) -> str:
    """Makes an operator's key in the service's database, which may be in use, and gives it with a line's end.

    The platform's audit chain tells of it. Whoever can read the database's address and the signing key may do this.

    Raises:
        CannotStart: The signing key can't be used.
        StorageUnavailable: The database does not answer.
    """
    return asyncio.run(_made(settings, schema)) + "\n"


async def _made(settings: TenantSettings, schema: str) -> str:
    log: structlog.stdlib.BoundLogger = structlog.get_logger("redoma.tenant")
    signing_key = load_signing_key(settings.signing_key_file, settings.jwks_file)
    database = Database(settings.database_url, log, schema, connections=2)
    trail = AuditTrail(SqlAuditStore(database), HeadKeys(signing_key, settings.jwks_file), log)
    try:
        keys = ApiKeys(SqlApiKeyStore(database), lambda: datetime.now(UTC))
        made, secret = await keys.create("", ApiKeySettings(DISPLAY_NAME), {PLATFORM_ADMIN})
        trail.start()
        trail.submit(Event("", made.create_time, ACTOR, ACTION, made.name, "", "OK", "", {}))
        await trail.stop()
        return secret
    finally:
        await database.close()
