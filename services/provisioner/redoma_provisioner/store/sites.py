"""Sites in SQL, and the whole network in one reading."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.kept import KeptNetwork
from redoma_provisioner.network.site import Sighting, Site, SiteCertificates, SiteState
from redoma_provisioner.store.connectors import connector_of
from redoma_provisioner.store.schema import CERTIFICATES, CONNECTORS, SITES
from redoma_provisioner.trust.names import GATEWAY


class SqlSiteStore:
    """Keeps sites in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_missing(self, site: Site) -> None:
        """Adds a site unless there is one of that id."""
        try:
            async with self._database.transaction(PLATFORM) as session:
                await session.execute(insert(SITES).values(_row(site) | {"id": site.id}))
        except IntegrityError:
            return

    async def find_site(self, site: str) -> Site | None:
        """Gives a site by id."""
        async with self._database.transaction(PLATFORM) as session:
            return await _find(session, site)

    async def list_sites(self, after: str | None, limit: int) -> Sequence[Site]:
        """Gives at most `limit` sites in the order of their ids, those after `after`."""
        query = select(SITES).order_by(SITES.c.id).limit(limit)
        if after is not None:
            query = query.where(SITES.c.id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_site(row) for row in (await session.execute(query)).mappings()]

    async def change_site(self, site: Site) -> Site | None:
        """Keeps what people set of a site in place of its version before; None if there is no such version any more, or
        the site was revoked."""
        statement = (
            update(SITES)
            .where(
                SITES.c.id == site.id,
                SITES.c.version == site.version - 1,
                SITES.c.state != SiteState.REVOKED.value,
            )
            .values(display_name=site.display_name, priority=site.priority, version=site.version)
            .returning(SITES)
        )
        async with self._database.transaction(PLATFORM) as session:
            row = (await session.execute(statement)).mappings().one_or_none()
        return None if row is None else _site(row)

    async def note_sightings(self, sightings: Sequence[Sighting]) -> None:
        """Writes down when sites were last heard of."""
        statement = (
            update(SITES)
            .where(SITES.c.id == bindparam("site_"))
            .values(last_seen_time=bindparam("time_"), trust_sequence=bindparam("trust_sequence_"))
        )
        values = [{"site_": one.site, "time_": one.time, "trust_sequence_": one.trust_sequence} for one in sightings]
        if values:
            async with self._database.transaction(PLATFORM) as session:
                connection = await session.connection()
                await connection.execute(statement, values)

    async def read_network(self, now: datetime) -> KeptNetwork:
        """Gives all sites, connectors, and certificates that count at `now`."""
        async with self._database.transaction(PLATFORM) as session:
            sites = (await session.execute(select(SITES).order_by(SITES.c.id))).mappings()
            connectors = (await session.execute(select(CONNECTORS).order_by(CONNECTORS.c.routing_key))).mappings()
            return KeptNetwork(
                sites=tuple(_site(row) for row in sites),
                connectors=tuple(connector_of(row) for row in connectors),
                certificates=await _read_certificates(session, now),
            )


async def _find(session: AsyncSession, site: str) -> Site | None:
    row = (await session.execute(select(SITES).where(SITES.c.id == site))).mappings().one_or_none()
    return None if row is None else _site(row)


async def _read_certificates(session: AsyncSession, now: datetime) -> dict[str, SiteCertificates]:
    """Reads by site what its gateway may show, and when the first of its services runs out of certificates."""
    in_force = and_(
        CERTIFICATES.c.revoke_time.is_(None),
        or_(CERTIFICATES.c.retire_time.is_(None), CERTIFICATES.c.retire_time > now),
    )
    last = func.max(CERTIFICATES.c.expire_time).label("expire_time")
    each = select(CERTIFICATES.c.site_id, last).where(in_force)
    services = each.group_by(CERTIFICATES.c.site_id, CERTIFICATES.c.service).subquery()
    first = select(services.c.site_id, func.min(services.c.expire_time)).group_by(services.c.site_id)
    shown = (
        select(CERTIFICATES.c.site_id, CERTIFICATES.c.fingerprint)
        .where(in_force, CERTIFICATES.c.service == GATEWAY, CERTIFICATES.c.expire_time > now)
        .order_by(CERTIFICATES.c.fingerprint)
    )
    fingerprints: dict[str, list[str]] = {}
    for site, fingerprint in await session.execute(shown):
        fingerprints.setdefault(site, []).append(fingerprint)
    return {
        site: SiteCertificates(tuple(fingerprints.get(site, ())), expire_time)
        for site, expire_time in await session.execute(first)
    }


def _row(site: Site) -> dict[str, Any]:
    return {
        "display_name": site.display_name,
        "state": site.state.value,
        "driver": site.driver.value,
        "priority": site.priority,
        "version": site.version,
        "create_time": site.create_time,
        "join_time": site.join_time,
        "revoke_time": site.revoke_time,
        "last_seen_time": site.last_seen_time,
        "trust_sequence": site.trust_sequence,
    }


def _site(row: RowMapping) -> Site:
    return Site(
        id=row["id"],
        display_name=row["display_name"],
        state=SiteState(row["state"]),
        driver=DriverKind(row["driver"]),
        priority=row["priority"],
        version=row["version"],
        create_time=row["create_time"],
        join_time=row["join_time"],
        revoke_time=row["revoke_time"],
        last_seen_time=row["last_seen_time"],
        trust_sequence=row["trust_sequence"],
    )
