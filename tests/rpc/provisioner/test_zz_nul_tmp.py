import asyncio
import time

import pytest
import structlog

from redoma_kit.database import Database
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.snapshots import SqlSnapshotStore


@pytest.fixture
def name(postgres_server):
    return postgres_server.create_migrated(SCHEMA, MIGRATIONS)

async def test_it(postgres_server, name):
    db = Database(postgres_server.url(name), structlog.get_logger(), SCHEMA)
    await db.upgrade(MIGRATIONS)
    s = SqlSnapshotStore(db)
    async def one(v):
        t=time.monotonic()
        try:
            r=await s.find("egress", v)
        except BaseException as e:
            r=f"{type(e).__name__} {str(e)[:200]}"
        return repr(v)[:20], str(r)[:200], round(time.monotonic()-t,2)
    print(await one("x"))
    for r in await asyncio.gather(*(one(v) for v in ["a\0b"]+["%"]*15)): print(r)
    for r in await asyncio.gather(*(one(v) for v in ["%"]*5)): print(r)
    print(await one("a\0b"))
    print(await one("x"))
    await db.close()
