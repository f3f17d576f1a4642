"""What the authority signed, in SQL."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_provisioner.errors import StateConflict
from redoma_provisioner.store.schema import CERTIFICATES, SITES
from redoma_provisioner.store.trust import JOINED, lock_site
from redoma_provisioner.trust.names import site_name
from redoma_provisioner.trust.record import CertificateRecord


class SqlCertificateStore:
    """Keeps records of the certificates of all sites."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_certificates(self, site: str, records: Sequence[CertificateRecord]) -> None:
        """Adds new certificates of a joined site, beside those it has.

        Raises:
            StateConflict: The site is not part of the network.
        """

        async def work(session: AsyncSession) -> None:
            state = await lock_site(session, site)
            if state != JOINED:
                raise StateConflict(f"{site_name(site)} is not part of the network.", {"state": state or "NONE"})
            await insert_certificates(session, records)

        await self._database.run(PLATFORM, work)

    async def retire_others(self, site: str, kept: Iterable[str], now: datetime) -> None:
        """Retires all certificates of a site but those with the serial numbers `kept`."""
        serials = sorted(kept)

        async def work(session: AsyncSession) -> None:
            await lock_site(session, site)
            await retire_certificates(session, site, now, serials)

        await self._database.run(PLATFORM, work)

    async def good_certificates(self, now: datetime, site: str = "") -> Sequence[CertificateRecord]:
        """Gives the certificates that are good at `now`, of one site or of all that are part of the network."""
        columns = CERTIFICATES.c
        query = (
            select(CERTIFICATES)
            .join(SITES, SITES.c.id == columns.site_id)
            .where(SITES.c.state == JOINED, columns.retire_time.is_(None), columns.revoke_time.is_(None))
            .where(columns.expire_time > now)
            .order_by(columns.site_id, columns.service, columns.issue_time, columns.serial)
        )
        if site:
            query = query.where(columns.site_id == site)
        async with self._database.transaction(PLATFORM) as session:
            return [_record(row) for row in (await session.execute(query)).mappings()]

    async def prune_certificates(self, before: datetime) -> int:
        """Forgets certificates that expired before, and says how many."""
        statement = delete(CERTIFICATES).where(CERTIFICATES.c.expire_time < before).returning(CERTIFICATES.c.serial)
        async with self._database.transaction(PLATFORM) as session:
            return len((await session.execute(statement)).all())


async def insert_certificates(session: AsyncSession, records: Sequence[CertificateRecord]) -> None:
    """Adds certificates."""
    rows = [
        {
            "serial": record.serial,
            "site_id": record.site,
            "service": record.service,
            "fingerprint": record.fingerprint,
            "issue_time": record.issue_time,
            "expire_time": record.expire_time,
        }
        for record in records
    ]
    await session.execute(insert(CERTIFICATES), rows)


async def retire_certificates(session: AsyncSession, site: str, now: datetime, kept: Sequence[str] = ()) -> None:
    """Retires the good certificates of a site but those with the serial numbers `kept`."""
    columns = CERTIFICATES.c
    is_good = (columns.retire_time.is_(None), columns.revoke_time.is_(None))
    statement = update(CERTIFICATES).where(columns.site_id == site, *is_good, columns.serial.not_in(kept))
    await session.execute(statement.values(retire_time=now))


def _record(row: RowMapping) -> CertificateRecord:
    return CertificateRecord(
        serial=row["serial"],
        site=row["site_id"],
        service=row["service"],
        fingerprint=row["fingerprint"],
        issue_time=row["issue_time"],
        expire_time=row["expire_time"],
        retire_time=row["retire_time"],
        revoke_time=row["revoke_time"],
    )
