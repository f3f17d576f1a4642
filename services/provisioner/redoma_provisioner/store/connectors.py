"""What private sites exposed when they were heard of last, in SQL."""

from collections.abc import Sequence

from sqlalchemy import RowMapping, delete, insert
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.store.schema import CONNECTORS
from redoma_provisioner.store.trust import JOINED, lock_site
from redoma_provisioner.trust.connectors import ExposedConnector


class SqlConnectorStore:
    """Keeps connectors in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def replace_connectors(self, site: str, connectors: Sequence[Connector]) -> None:
        """Keeps what a site exposes in place of what it did; nothing of a site that is not part of the network."""

        async def work(session: AsyncSession) -> None:
            # Held until the end, so that a site that is revoked or forgotten meanwhile leaves nothing behind.
            if await lock_site(session, site) != JOINED:
                return
            await write_connectors(session, site, connectors)

        await self._database.run(PLATFORM, work)


async def write_connectors(
    session: AsyncSession, site: str, connectors: Sequence[Connector | ExposedConnector]
) -> None:
    """Writes what a site exposes in place of what it did."""
    await session.execute(delete(CONNECTORS).where(CONNECTORS.c.site_id == site))
    if connectors:
        await session.execute(insert(CONNECTORS), [_row(site, connector) for connector in connectors])


def connector_of(row: RowMapping) -> Connector:
    """Gives the connector of a row."""
    return Connector(row["site_id"], row["routing_key"], row["service"], row["target"], row["tenant_id"])


def _row(site: str, connector: Connector | ExposedConnector) -> dict[str, str]:
    return {
        "site_id": site,
        "routing_key": connector.routing_key,
        "service": connector.service,
        "target": connector.target,
        "tenant_id": connector.tenant,
    }
