"""The feed of changes: what replicas must no longer believe of credentials, written with the change itself."""

from datetime import datetime

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_tenant.store.schema import CHANGES


async def note_change(session: AsyncSession, tenant: str, principal: str, reason: str, now: datetime) -> None:
    """Notes in the session's transaction that `principal` changed.

    `tenant` is empty for what is of no tenant. `principal` is a resource name, empty for all of the tenant. `reason` is
    the name of an ErrorReason with which its running calls end, empty if they may go on.
    """
    values = {"tenant_id": tenant, "principal": principal, "reason": reason, "time": now}
    await session.execute(insert(CHANGES).values(values))
