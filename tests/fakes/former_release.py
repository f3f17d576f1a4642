"""A database as a former release left it, rows included."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine


async def fill(url: str, schema: str, rows: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """Adds rows to tables, as the tables' owner."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        if make_url(url).get_backend_name() == "postgresql":
            await connection.execute(sa.text(f"SET LOCAL search_path = {schema}"))
            await connection.execute(sa.text(f"SET LOCAL ROLE {schema}_owner"))
        for name, added in rows.items():
            found = sa.MetaData()
            await connection.run_sync(found.reflect, only=[name])
            table = found.tables[name]
            await connection.execute(sa.insert(table), [dict(row) for row in added])
    await engine.dispose()
