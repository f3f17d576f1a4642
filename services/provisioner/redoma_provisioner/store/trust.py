"""The sequence of trust bundles, and what becomes of a site that is revoked or forgotten, in SQL.

Whoever locks sites, grants, certificates and the sequence locks them in this order.
"""

from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import ResourceNotFound
from redoma_provisioner.errors import StateConflict
from redoma_provisioner.store.schema import CERTIFICATES, CONNECTORS, LINK_GRANTS, SITES, TRUST
from redoma_provisioner.trust.bundle import TrustContent
from redoma_provisioner.trust.bundles import MakeContent
from redoma_provisioner.trust.names import site_name

ONLY_ROW = 1
INVITED, JOINED, REVOKED = "INVITED", "JOINED", "REVOKED"


class SqlTrustStore:
    """Keeps the sequence number of trust bundles, and takes sites out of the network."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, make: MakeContent, now: datetime) -> tuple[int, TrustContent]:
        """Gives what all sites trust and its number, which grows if the content is other than the last."""
        query = select(TRUST.c.sequence, TRUST.c.digest).where(TRUST.c.id == ONLY_ROW)
        async with self._database.transaction(PLATFORM) as session:
            content = make(await _refused(session, now))
            row = (await session.execute(query)).one_or_none()
        if row is not None and row.digest == content.digest:
            return row.sequence, content
        return await self._database.run(PLATFORM, lambda session: _renewed(session, make, now))

    async def revoke_site(self, site: str, make: MakeContent, now: datetime) -> bool:
        """Revokes a site with its grants and certificates; False if it was revoked already.

        Raises:
            ResourceNotFound: There is no such site.
        """
        return await self._database.run(PLATFORM, lambda session: _revoke(session, site, make, now))

    async def forget_site(self, site: str) -> None:
        """Forgets a site that is revoked, or never joined, and its grants and connectors; not its certificates.

        Raises:
            ResourceNotFound: There is no such site.
            StateConflict: It may be part of the network.
        """
        await self._database.run(PLATFORM, lambda session: _forget(session, site))


async def lock_site(session: AsyncSession, site: str) -> str | None:
    """Gives the state of a site, which no other transaction changes before this one ends; None if there is none."""
    # A write, so that SQLite too has one transaction after the other.
    statement = update(SITES).where(SITES.c.id == site).values(version=SITES.c.version).returning(SITES.c.state)
    state: str | None = await session.scalar(statement)
    return state


async def _refused(session: AsyncSession, now: datetime) -> list[str]:
    columns = CERTIFICATES.c
    is_refused = or_(columns.retire_time.is_not(None), columns.revoke_time.is_not(None))
    return list(await session.scalars(select(columns.serial).where(is_refused, columns.expire_time > now)))


async def _renewed(session: AsyncSession, make: MakeContent, now: datetime) -> tuple[int, TrustContent]:
    # What is read after the row is locked is what the last bundle was made from, or newer.
    row = await _lock_sequence(session)
    content = make(await _refused(session, now))
    if row[1] == content.digest:
        return row[0], content
    sequence = row[0] + 1
    await session.execute(
        update(TRUST)
        .where(TRUST.c.id == ONLY_ROW, TRUST.c.sequence == row[0])
        .values(sequence=sequence, digest=content.digest)
    )
    return sequence, content


async def _lock_sequence(session: AsyncSession) -> tuple[int, str]:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    await session.execute(
        dialect.insert(TRUST).values(id=ONLY_ROW, sequence=0, digest="").on_conflict_do_nothing(index_elements=["id"])
    )
    lock = update(TRUST).where(TRUST.c.id == ONLY_ROW).values(sequence=TRUST.c.sequence)
    row = (await session.execute(lock.returning(TRUST.c.sequence, TRUST.c.digest))).one()
    return row.sequence, row.digest


async def _revoke(session: AsyncSession, site: str, make: MakeContent, now: datetime) -> bool:
    state = await lock_site(session, site)
    if state is None:
        raise ResourceNotFound(site_name(site))
    if state == REVOKED:
        return False
    values = {"state": REVOKED, "revoke_time": now, "version": SITES.c.version + 1}
    await session.execute(update(SITES).where(SITES.c.id == site).values(values))
    await revoke_grants(session, site, now)
    columns = CERTIFICATES.c
    await session.execute(
        update(CERTIFICATES).where(columns.site_id == site, columns.revoke_time.is_(None)).values(revoke_time=now)
    )
    await _renewed(session, make, now)
    return True


async def revoke_grants(session: AsyncSession, site: str, now: datetime) -> None:
    """Revokes the grants of a site that could be redeemed."""
    columns = LINK_GRANTS.c
    is_active = (columns.redeem_time.is_(None), columns.revoke_time.is_(None), columns.expire_time > now)
    await session.execute(update(LINK_GRANTS).where(columns.site_id == site, *is_active).values(revoke_time=now))


async def _forget(session: AsyncSession, site: str) -> None:
    state = await lock_site(session, site)
    if state is None:
        raise ResourceNotFound(site_name(site))
    if state == JOINED:
        raise StateConflict(
            f"The site {site} may be part of the network; revoke it first, with `redoma van revoke {site}`.",
            {"state": state},
        )
    for table in (LINK_GRANTS, CONNECTORS):
        await session.execute(delete(table).where(table.c.site_id == site))
    await session.execute(delete(SITES).where(SITES.c.id == site))


async def add_site(session: AsyncSession, site: str, driver: str, now: datetime) -> None:
    """Adds an invited site, unless there is one of its id."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = {
        "id": site,
        "display_name": "",
        "state": INVITED,
        "driver": driver,
        "priority": 0,
        "version": 1,
        "create_time": now,
        "trust_sequence": 0,
    }
    await session.execute(dialect.insert(SITES).values(values).on_conflict_do_nothing(index_elements=["id"]))
