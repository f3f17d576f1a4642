"""Audit chains in SQL. Rows are only ever added; the head of a chain is locked by whoever appends to it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database, Scope
from redoma_tenant.audit.chain import Entry, Event, Position, Unreadable
from redoma_tenant.audit.heads import Head
from redoma_tenant.audit.store import ChainMoved, End, Extend, Wanted
from redoma_tenant.store.schema import AUDIT_BEGUN, AUDIT_ENTRIES, AUDIT_HEADS

Columns = AUDIT_ENTRIES.c


class SqlAuditStore:
    """Keeps chains in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, chain: str, extend: Extend, notes: Sequence[str] = ()) -> None:
        """Adds what `extend` gives for the head, which is locked meanwhile, and takes notes of what was begun away.

        Raises:
            ChainMoved: Another process appended at the same time; nothing was written.
        """

        async def work(session: AsyncSession) -> None:
            head, last_sequence = await _locked_end(session, chain)
            entries, moved = extend(head, await _stray(session, chain, head, last_sequence))
            await session.execute(insert(AUDIT_ENTRIES), [_values(entry) for entry in entries])
            await _move(session, head, moved)
            if notes:
                await session.execute(delete(AUDIT_BEGUN).where(AUDIT_BEGUN.c.id.in_(notes)))

        try:
            await self._database.run(PLATFORM, work)
        except IntegrityError:
            raise ChainMoved() from None

    async def list_heads(self, after: str | None, limit: int) -> Sequence[Head]:
        """Gives at most `limit` heads in the order of their chains, those after `after`."""
        query = select(AUDIT_HEADS).order_by(AUDIT_HEADS.c.tenant_id).limit(limit)
        if after is not None:
            query = query.where(AUDIT_HEADS.c.tenant_id > after)
        async with self._database.transaction(PLATFORM) as session:
            return [_head(row) for row in (await session.execute(query)).mappings()]

    async def sign_again(self, head: Head, signature: str) -> None:
        """Replaces the signature, unless the head has moved."""
        statement = _update_of(head).values(signature=signature)
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(statement)

    async def find_end(self, chain: str) -> End:
        """Gives the end of a chain, head and last entry of the same moment."""
        async with self._database.transaction(_scope(chain)) as session:
            head, last_sequence = await _end(session, chain, _head_of(chain))
        return End(head, last_sequence)

    async def list_entries(self, chain: str, wanted: Wanted, before: int | None, limit: int) -> Sequence[Entry]:
        """Gives at most `limit` entries, the latest first, those before the sequence `before`."""
        query = select(AUDIT_ENTRIES).where(Columns.tenant_id == chain).order_by(Columns.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(Columns.sequence < before)
        async with self._database.transaction(_scope(chain)) as session:
            return [_entry(row) for row in (await session.execute(_filtered(query, wanted))).mappings()]

    async def read_entries(self, chain: str, after: int, to: int, limit: int) -> Sequence[Entry | Unreadable]:
        """Gives at most `limit` entries, the earliest first, those after `after` up to `to`."""
        it = (Columns.tenant_id == chain, Columns.sequence > after, Columns.sequence <= to)
        async with self._database.transaction(_scope(chain)) as session:
            try:
                query = select(AUDIT_ENTRIES).where(*it).order_by(Columns.sequence).limit(limit)
                return [_entry(row) for row in (await session.execute(query)).mappings()]
            except (ValueError, TypeError):
                sequences = await session.scalars(
                    select(Columns.sequence).where(*it).order_by(Columns.sequence).limit(limit)
                )
                return [await _one(session, chain, sequence) for sequence in sequences.all()]


async def _locked_end(session: AsyncSession, chain: str) -> tuple[Head | None, int]:
    return await _end(session, chain, _head_of(chain).with_for_update(of=AUDIT_HEADS))


def _head_of(chain: str) -> Select[Any]:
    # One statement, so that head and entries are of one moment on both databases.
    last = select(func.max(Columns.sequence)).where(Columns.tenant_id == chain).scalar_subquery()
    return select(AUDIT_HEADS, func.coalesce(last, 0).label("last_sequence")).where(AUDIT_HEADS.c.tenant_id == chain)


async def _end(session: AsyncSession, chain: str, query: Select[Any]) -> tuple[Head | None, int]:
    row = (await session.execute(query)).mappings().one_or_none()
    if row is not None:
        return _head(row), row["last_sequence"]
    last = await session.scalar(select(func.max(Columns.sequence)).where(Columns.tenant_id == chain))
    return None, last or 0


async def _stray(session: AsyncSession, chain: str, head: Head | None, last_sequence: int) -> Position | None:
    if last_sequence <= (0 if head is None else head.position.sequence):
        return None
    query = select(Columns.hash).where(Columns.tenant_id == chain, Columns.sequence == last_sequence)
    return Position(last_sequence, str(await session.scalar(query)))


async def _move(session: AsyncSession, head: Head | None, moved: Head) -> None:
    values = {"sequence": moved.position.sequence, "hash": moved.position.hash, "signature": moved.signature}
    if head is None:
        await session.execute(insert(AUDIT_HEADS).values(tenant_id=moved.chain, **values))
    else:
        await session.execute(update(AUDIT_HEADS).where(AUDIT_HEADS.c.tenant_id == moved.chain).values(values))


async def _one(session: AsyncSession, chain: str, sequence: int) -> Entry | Unreadable:
    query = select(AUDIT_ENTRIES).where(Columns.tenant_id == chain, Columns.sequence == sequence)
    try:
        return _entry((await session.execute(query)).mappings().one())
    except (ValueError, TypeError):
        return Unreadable(sequence)


def _update_of(head: Head) -> Any:
    it = (AUDIT_HEADS.c.tenant_id == head.chain, AUDIT_HEADS.c.sequence == head.position.sequence)
    return update(AUDIT_HEADS).where(*it, AUDIT_HEADS.c.hash == head.position.hash)


def _scope(chain: str) -> Scope:
    return Scope.of(chain) if chain else PLATFORM


def _filtered(query: Select[Any], wanted: Wanted) -> Select[Any]:
    if wanted.start_time is not None:
        query = query.where(Columns.time >= wanted.start_time)
    if wanted.end_time is not None:
        query = query.where(Columns.time < wanted.end_time)
    if wanted.actor:
        query = query.where(Columns.actor == wanted.actor)
    if wanted.action:
        query = query.where(func.lower(Columns.action).contains(wanted.action.lower(), autoescape=True))
    if wanted.result:
        query = query.where(Columns.result == wanted.result)
    if prefix := wanted.resource_prefix:
        # LIKE knows no case on one of the databases.
        query = query.where(func.substr(Columns.resource, 1, len(prefix)) == prefix)
    return query


def _values(entry: Entry) -> dict[str, Any]:
    event = entry.event
    return {
        "tenant_id": event.chain,
        "sequence": entry.sequence,
        "time": event.time,
        "actor": event.actor,
        "action": event.action,
        "resource": event.resource,
        "source": event.source,
        "result": event.result,
        "request_id": event.request_id,
        "details": dict(event.details),
        "count": event.count,
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def _head(row: RowMapping) -> Head:
    return Head(row["tenant_id"], Position(row["sequence"], row["hash"]), row["signature"])


def event_of(row: RowMapping) -> Event:
    """Reads an event out of a row; one that is not counted stands for itself."""
    return Event(
        chain=row["tenant_id"],
        time=row["time"],
        actor=row["actor"],
        action=row["action"],
        resource=row["resource"],
        source=row["source"],
        result=row["result"],
        request_id=row["request_id"],
        details=dict(row["details"]),
        count=row.get("count", 1),
    )


def _entry(row: RowMapping) -> Entry:
    return Entry(event_of(row), row["sequence"], row["previous_hash"], row["hash"])
