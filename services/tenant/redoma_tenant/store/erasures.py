"""Erasures in SQL, and what this service itself erases: the person behind a principal, a purged tenant's keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, delete, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_kit.errors import ResourceNotFound
from redoma_tenant.names import api_key_name, tenant_name
from redoma_tenant.pages import TimePlace
from redoma_tenant.privacy.erasures import Erasure, ErasureState, Step, Subject
from redoma_tenant.store.changes import note_change
from redoma_tenant.store.newest_first import newest_first
from redoma_tenant.store.schema import API_KEYS, ERASURES, TENANTS, USERS, UtcDateTime

E = ERASURES.c
CREDENTIAL_REVOKED = "CREDENTIAL_REVOKED"


class SqlErasureStore:
    """Keeps erasures in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_erasure(self, erasure: Erasure) -> None:
        """Adds an erasure.

        Raises:
            ResourceNotFound: Its tenant or its principal is missing.
        """
        async with self._database.transaction(Scope.of(erasure.subject.tenant)) as session:
            await check_subject(session, erasure.subject)
            await session.execute(insert(ERASURES).values(_columns(erasure)))

    async def find_erasure(self, tenant: str, erasure: str) -> Erasure | None:
        """Gives an erasure of a tenant by id."""
        query = select(ERASURES).where(E.tenant_id == tenant, E.id == erasure)
        async with self._database.transaction(Scope.of(tenant)) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else _erasure(row)

    async def list_erasures(self, tenant: str, after: TimePlace | None, limit: int) -> Sequence[Erasure]:
        """Gives at most `limit` of a tenant's erasures, the latest first, those after `after` in that order."""
        query = newest_first(select(ERASURES).where(E.tenant_id == tenant), E.create_time, E.id, after, limit)
        async with self._database.transaction(Scope.of(tenant)) as session:
            return [_erasure(row) for row in (await session.execute(query)).mappings()]

    async def pending_erasures(self, after: Erasure | None, limit: int) -> Sequence[Erasure]:
        """Gives erasures of all tenants that are not complete, the oldest first, those after `after` in that order."""
        pending = E.state == ErasureState.PENDING.value
        query = select(ERASURES).where(pending).order_by(E.create_time, E.id).limit(limit)
        if after is not None:
            place = tuple_(literal(after.create_time, UtcDateTime), literal(after.id))
            query = query.where(tuple_(E.create_time, E.id) > place)
        async with self._database.transaction(PLATFORM) as session:
            return [_erasure(row) for row in (await session.execute(query)).mappings()]

    async def save_erasure(self, erasure: Erasure) -> None:
        """Saves steps, state and certificate, unless the erasure is complete already."""
        tenant = erasure.subject.tenant
        it = and_(E.tenant_id == tenant, E.id == erasure.id, E.state == ErasureState.PENDING.value)
        columns = _columns(erasure)
        values = {name: columns[name] for name in ("state", "steps", "complete_time", "certificate")}
        async with self._database.transaction(Scope.of(tenant)) as session:
            await session.execute(update(ERASURES).where(it).values(values))

    async def due_tenants(self, now: datetime, limit: int) -> Sequence[str]:
        """Gives ids of deleted tenants whose time to be purged has come."""
        query = select(TENANTS.c.id).where(TENANTS.c.purge_time <= now).order_by(TENANTS.c.purge_time).limit(limit)
        async with self._database.transaction(PLATFORM) as session:
            return list((await session.execute(query)).scalars())

    async def begin_purge(self, erasure: Erasure, now: datetime) -> bool:
        """Adds the erasure of a deleted tenant, takes its users and keys away, and keeps its id as one that is taken.

        Returns:
            Whether it was due, and nobody else has begun.
        """
        tenant = erasure.subject.tenant
        due = and_(TENANTS.c.id == tenant, TENANTS.c.purge_time <= now)
        left: dict[str, Any] = {
            "purge_time": None,
            "display_name": "",
            "content_checks": NO_CHECKS,
            "update_time": now,
            # Whoever read the tenant before can't take its deletion back any more.
            "version": TENANTS.c.version + 1,
        }
        async with self._database.transaction(Scope.of(tenant)) as session:
            taken = await session.execute(update(TENANTS).where(due).values(left).returning(TENANTS.c.id))
            if taken.scalar_one_or_none() is None:
                return False
            await session.execute(delete(USERS).where(USERS.c.tenant_id == tenant))
            await session.execute(delete(API_KEYS).where(API_KEYS.c.tenant_id == tenant))
            await session.execute(insert(ERASURES).values(_columns(erasure)))
        return True

    async def principals_of(self, subject: Subject) -> Sequence[str]:
        """Gives the resource names that content of the subject is filed under: a user's own, and his keys'."""
        kind, last = _principal(subject)
        if kind != "users":
            return [subject.principal]
        query = select(API_KEYS.c.id).where(API_KEYS.c.tenant_id == subject.tenant, API_KEYS.c.user_id == last)
        async with self._database.transaction(Scope.of(subject.tenant)) as session:
            keys = (await session.execute(query.order_by(API_KEYS.c.id))).scalars()
            return [subject.principal, *(api_key_name(subject.tenant, key) for key in keys)]

    async def forget_user(self, subject: Subject, now: datetime) -> int:
        """Deletes the person behind a principal, if it is a user, and revokes his keys; gives how many it was."""
        kind, user = _principal(subject)
        if kind != "users":
            return 0
        tenant = subject.tenant
        his = and_(API_KEYS.c.tenant_id == tenant, API_KEYS.c.user_id == user)
        nameless = {"display_name": "", "version": API_KEYS.c.version + 1}
        it = and_(USERS.c.tenant_id == tenant, USERS.c.id == user)
        async with self._database.transaction(Scope.of(tenant)) as session:
            # First, so that whoever gives him a key meanwhile is waited for, and no one does after.
            gone = (await session.execute(delete(USERS).where(it).returning(USERS.c.id))).scalars().all()
            await session.execute(update(API_KEYS).where(his, API_KEYS.c.display_name != "").values(nameless))
            works = and_(his, API_KEYS.c.revoke_time.is_(None))
            revoked = {"revoke_time": now, "version": API_KEYS.c.version + 1}
            keys = await session.execute(update(API_KEYS).where(works).values(revoked).returning(API_KEYS.c.id))
            for key in keys.scalars().all():
                await note_change(session, tenant, api_key_name(tenant, key), CREDENTIAL_REVOKED, now)
            if gone:
                await note_change(session, tenant, subject.principal, CREDENTIAL_REVOKED, now)
        return len(gone)


NO_CHECKS: Mapping[str, object] = {"max_input_tokens": 0, "blocked_patterns": []}


async def check_subject(session: AsyncSession, subject: Subject) -> None:
    """Raises ResourceNotFound if the tenant or the principal is missing."""
    tenant = subject.tenant
    if await session.scalar(select(TENANTS.c.id).where(TENANTS.c.id == tenant)) is None:
        raise ResourceNotFound(tenant_name(tenant))
    if not subject.principal:
        return
    kind, last = _principal(subject)
    table = {"apiKeys": API_KEYS, "users": USERS}.get(kind)
    found = None
    if table is not None:
        found = await session.scalar(select(table.c.id).where(table.c.tenant_id == tenant, table.c.id == last))
    if found is None:
        raise ResourceNotFound(subject.principal)


def _principal(subject: Subject) -> tuple[str, str]:
    rest = subject.principal.removeprefix(tenant_name(subject.tenant) + "/")
    kind, _, last = rest.partition("/")
    return kind, last


def _columns(erasure: Erasure) -> dict[str, Any]:
    return {
        "tenant_id": erasure.subject.tenant,
        "id": erasure.id,
        "principal": erasure.subject.principal,
        "purpose": erasure.purpose,
        "state": erasure.state.value,
        "steps": [_step_to_json(step) for step in erasure.steps],
        "create_time": erasure.create_time,
        "complete_time": erasure.complete_time,
        "certificate": erasure.certificate,
    }


def _erasure(row: RowMapping) -> Erasure:
    return Erasure(
        id=row["id"],
        subject=Subject(row["tenant_id"], row["principal"]),
        purpose=row["purpose"],
        create_time=row["create_time"],
        steps=tuple(_step_from_json(step) for step in row["steps"]),
        state=ErasureState(row["state"]),
        complete_time=row["complete_time"],
        certificate=row["certificate"],
    )


def _step_to_json(step: Step) -> dict[str, Any]:
    return {
        "place": step.place,
        "acknowledge_time": step.acknowledge_time.isoformat() if step.acknowledge_time else None,
        "erased": dict(step.erased or {}),
        "problem": step.problem,
        "done": {part: dict(counts) for part, counts in step.done.items()},
    }


def _step_from_json(value: Mapping[str, Any]) -> Step:
    at = value["acknowledge_time"]
    return Step(
        value["place"],
        datetime.fromisoformat(at) if at else None,
        value["erased"],
        value["problem"],
        value.get("done", {}),
    )
