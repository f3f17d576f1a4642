"""One statement that adds a row, and changes one that is there; each database has words of its own for it."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

Upsert = postgresql.Insert | sqlite.Insert


def upsert(session: AsyncSession, table: Table, changes: Callable[[Any], Mapping[str, Any]]) -> Upsert:
    """Gives the statement. `changes` makes the new values of a row that is there from the row that would be added."""
    keys = list(table.primary_key)
    if session.get_bind().dialect.name == "postgresql":
        statement = postgresql.insert(table)
        return statement.on_conflict_do_update(index_elements=keys, set_=dict(changes(statement.excluded)))
    other = sqlite.insert(table)
    return other.on_conflict_do_update(index_elements=keys, set_=dict(changes(other.excluded)))
