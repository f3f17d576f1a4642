"""The last snapshots of the Envoys, in SQL."""

import json
import zlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import StorageUnavailable
from redoma_provisioner.edge.record import SnapshotRecord
from redoma_provisioner.edge.snapshot import Snapshot
from redoma_provisioner.store.schema import SNAPSHOTS

KEPT = 50
# Several processes may keep one at the same moment.
TRIES = 10
COLUMNS = SNAPSHOTS.c
RECORD = (COLUMNS.number, COLUMNS.version, COLUMNS.create_time, COLUMNS.cause, COLUMNS.changes)


class SqlSnapshotStore:
    """Keeps snapshots in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, proxy: str, record: SnapshotRecord, snapshot: Snapshot) -> None:
        """Keeps a snapshot as the newest, unless the newest has its version."""
        values = {
            "proxy": proxy,
            "version": record.version,
            "create_time": record.create_time,
            "cause": record.cause,
            "changes": list(record.changes),
            "resources": _packed(snapshot),
        }

        async def work(session: AsyncSession) -> None:
            newest = (await session.execute(_newest(proxy).limit(1))).mappings().one_or_none()
            if newest is not None and newest["version"] == record.version:
                return
            number = 1 if newest is None else newest["number"] + 1
            await session.execute(insert(SNAPSHOTS).values(values | {"number": number}))
            old = (COLUMNS.proxy == proxy, COLUMNS.number <= number - KEPT)
            await session.execute(delete(SNAPSHOTS).where(*old))

        for _ in range(TRIES):
            try:
                await self._database.run(PLATFORM, work)
            except IntegrityError:
                continue
            return
        raise StorageUnavailable()

    async def newest(self, proxy: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """Gives the newest snapshot."""
        return await self._one(_newest(proxy, COLUMNS.resources).limit(1))

    async def find(self, proxy: str, version: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """Gives the newest snapshot of that version."""
        return await self._one(_newest(proxy, COLUMNS.resources).where(COLUMNS.version == version).limit(1))

    async def list_records(self, proxy: str) -> Sequence[SnapshotRecord]:
        """Gives what is said of the kept ones, the newest first."""
        async with self._database.transaction(PLATFORM) as session:
            return [_record(row) for row in (await session.execute(_newest(proxy))).mappings()]

    async def _one(self, query: Any) -> tuple[SnapshotRecord, Snapshot] | None:
        async with self._database.transaction(PLATFORM) as session:
            row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else (_record(row), _unpacked(row["resources"]))


def _newest(proxy: str, *more: Any) -> Any:
    return select(*RECORD, *more).where(COLUMNS.proxy == proxy).order_by(COLUMNS.number.desc())


def _record(row: RowMapping) -> SnapshotRecord:
    return SnapshotRecord(row["version"], row["create_time"], row["cause"], tuple(row["changes"]))


def _packed(snapshot: Snapshot) -> bytes:
    return zlib.compress(json.dumps(snapshot.resources, separators=(",", ":")).encode())


def _unpacked(content: bytes) -> Snapshot:
    return Snapshot(json.loads(zlib.decompress(content)))
