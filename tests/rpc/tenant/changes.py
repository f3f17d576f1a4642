"""What the feed of changes holds."""

from sqlalchemy import select

from redoma_kit.database import PLATFORM
from redoma_tenant.store.schema import CHANGES
from tests.rpc.tenant.tenant_site import TenantSite


async def changes_of(site: TenantSite) -> list[tuple[str, str, str]]:
    """Gives tenant, principal and reason of each change, the oldest first."""
    columns = CHANGES.c
    query = select(columns.tenant_id, columns.principal, columns.reason).order_by(columns.position)
    async with site.server.database.transaction(PLATFORM) as session:
        return [(tenant, principal, reason) for tenant, principal, reason in await session.execute(query)]
