"""Calls that were begun, in SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, insert, select, update

from redoma_kit.database import PLATFORM, Database
from redoma_tenant.audit.begun import Begun
from redoma_tenant.store.audit import event_of
from redoma_tenant.store.schema import AUDIT_BEGUN

Columns = AUDIT_BEGUN.c


class SqlBegunStore:
    """Keeps notes in a database. The entry of a call takes its note away; see SqlAuditStore."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_begun(self, begun: Begun, due: datetime) -> None:
        """Adds a note, which is lost if it is there at `due`."""
        event = begun.event
        values = {
            "id": begun.id,
            "tenant_id": event.chain,
            "due_time": due,
            "time": event.time,
            "actor": event.actor,
            "action": event.action,
            "resource": event.resource,
            "source": event.source,
            "result": event.result,
            "request_id": event.request_id,
            "details": dict(event.details),
        }
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(insert(AUDIT_BEGUN).values(values))

    async def take_due(self, now: datetime, again: datetime, limit: int) -> Sequence[Begun]:
        """Gives at most `limit` notes that are due, and makes them due `again`, so that one replica tells of each."""
        due = select(Columns.id).where(Columns.due_time <= now).order_by(Columns.due_time, Columns.id).limit(limit)
        due = due.with_for_update(skip_locked=True)
        statement = update(AUDIT_BEGUN).where(Columns.id.in_(due)).values(due_time=again).returning(AUDIT_BEGUN)
        async with self._database.transaction(PLATFORM) as session:
            found = [_begun(row) for row in (await session.execute(statement)).mappings()]
        return sorted(found, key=lambda begun: begun.event.time)


def _begun(row: RowMapping) -> Begun:
    return Begun(row["id"], event_of(row))
