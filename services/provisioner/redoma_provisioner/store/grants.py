"""Grants in SQL. Of those who redeem one at the same time exactly one succeeds: a conditional update decides."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, and_, delete, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import ResourceExists, ResourceNotFound
from redoma_provisioner.errors import StateConflict
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.store.certificates import insert_certificates, retire_certificates
from redoma_provisioner.store.connectors import write_connectors
from redoma_provisioner.store.schema import LINK_GRANTS, SITES, UtcDateTime
from redoma_provisioner.store.trust import JOINED, REVOKED, add_site, lock_site, revoke_grants
from redoma_provisioner.trust.grant import LinkGrant
from redoma_provisioner.trust.names import site_name
from redoma_provisioner.trust.redemption import KnownGrant, Redemption

COLUMNS = LINK_GRANTS.c


class SqlGrantStore:
    """Keeps grants in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_grant(self, grant: LinkGrant, code_hash: str) -> None:
        """Adds a grant and, if there is none, its site; revokes the site's active one.

        Raises:
            StateConflict: The site is revoked.
            ResourceExists: It has joined, and the grant is not for joining anew.
        """
        await self._database.run(PLATFORM, lambda session: _add(session, grant, code_hash))

    async def list_grants(self, after: tuple[datetime, str] | None, limit: int) -> Sequence[LinkGrant]:
        """Gives at most `limit` grants, the newest first, those after the time and id `after`."""
        query = select(LINK_GRANTS).order_by(COLUMNS.create_time.desc(), COLUMNS.id.desc()).limit(limit)
        if after is not None:
            place = tuple_(literal(after[0], UtcDateTime), literal(after[1]))
            query = query.where(tuple_(COLUMNS.create_time, COLUMNS.id) < place)
        async with self._database.transaction(PLATFORM) as session:
            return [_grant(row) for row in (await session.execute(query)).mappings()]

    async def revoke_grant(self, grant_id: str, now: datetime) -> LinkGrant:
        """Revokes a grant, if it can still be redeemed, and gives it.

        Raises:
            ResourceNotFound: There is none.
        """
        statement = update(LINK_GRANTS).where(COLUMNS.id == grant_id, *_is_active(now)).values(revoke_time=now)
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(statement)
            row = (await session.execute(select(LINK_GRANTS).where(COLUMNS.id == grant_id))).mappings().one_or_none()
        if row is None:
            raise ResourceNotFound(f"linkGrants/{grant_id}")
        return _grant(row)

    async def find_by_code(self, code_hash: str) -> KnownGrant | None:
        """Gives the grant whose code has this hash."""
        query = (
            select(LINK_GRANTS, SITES.c.state.label("site_state"))
            .join(SITES, SITES.c.id == COLUMNS.site_id)
            .where(COLUMNS.code_hash == code_hash)
        )
        async with self._database.transaction(PLATFORM) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        is_site_revoked = row["site_state"] == REVOKED
        return KnownGrant(_grant(row), is_site_revoked, row["request_digest"] or "", row["answer"] or b"")

    async def redeem(self, grant: LinkGrant, redemption: Redemption, now: datetime) -> bool:
        """Lets the grant's site join, all or nothing; False if the grant can't be redeemed, or not any more."""
        return await self._database.run(PLATFORM, lambda session: _redeem(session, grant, redemption, now))

    async def prune_grants(self, before: datetime, answers_before: datetime) -> None:
        """Forgets grants that could not be redeemed any more before, and answers given before `answers_before`."""
        ended = or_(
            COLUMNS.redeem_time < before,
            COLUMNS.revoke_time < before,
            and_(COLUMNS.redeem_time.is_(None), COLUMNS.expire_time < before),
        )
        old = (COLUMNS.redeem_time < answers_before, COLUMNS.answer.is_not(None))
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(update(LINK_GRANTS).where(*old).values(answer=None))
            await session.execute(delete(LINK_GRANTS).where(ended))


def _is_active(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (COLUMNS.redeem_time.is_(None), COLUMNS.revoke_time.is_(None), COLUMNS.expire_time > now)


async def _add(session: AsyncSession, grant: LinkGrant, code_hash: str) -> None:
    await add_site(session, grant.site, grant.driver.value, grant.create_time)
    state = await lock_site(session, grant.site)
    if state == REVOKED:
        raise StateConflict(
            f"The site {grant.site} was revoked for good; take another id, or delete the site first.", {"state": state}
        )
    if state == JOINED and not grant.rejoin:
        raise ResourceExists(site_name(grant.site))
    await revoke_grants(session, grant.site, grant.create_time)
    await session.execute(
        insert(LINK_GRANTS).values(
            id=grant.id,
            site_id=grant.site,
            driver=grant.driver.value,
            code_hash=code_hash,
            creator=grant.creator,
            rejoin=grant.rejoin,
            create_time=grant.create_time,
            expire_time=grant.expire_time,
        )
    )


async def _redeem(session: AsyncSession, grant: LinkGrant, redemption: Redemption, now: datetime) -> bool:
    state = await lock_site(session, grant.site)
    if state is None or state == REVOKED or (state == JOINED and not grant.rejoin):
        return False
    taken = update(LINK_GRANTS).where(COLUMNS.id == grant.id, *_is_active(now)).returning(COLUMNS.id)
    values = {"redeem_time": now, "request_digest": redemption.keys_digest, "answer": redemption.answer}
    if await session.scalar(taken.values(values)) is None:
        return False
    joined = {"state": JOINED, "driver": grant.driver.value, "join_time": now, "trust_sequence": 0}
    await session.execute(update(SITES).where(SITES.c.id == grant.site).values(joined))
    await retire_certificates(session, grant.site, now)
    await insert_certificates(session, redemption.records)
    await write_connectors(session, grant.site, redemption.connectors)
    return True


def _grant(row: RowMapping) -> LinkGrant:
    return LinkGrant(
        id=row["id"],
        site=row["site_id"],
        driver=DriverKind(row["driver"]),
        creator=row["creator"],
        rejoin=row["rejoin"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        redeem_time=row["redeem_time"],
        revoke_time=row["revoke_time"],
    )
