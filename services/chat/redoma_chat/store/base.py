"""What all parts of the store share: the databases, the content keys, and whose a row is."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Table, and_, case
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.content_storage import ContentStorage
from redoma_chat.names import Owner
from redoma_chat.store.content_keys import SqlContentKeys
from redoma_chat.store.databases import Databases


class StorePart:
    """A part of the store. Every method of one may raise StorageUnavailable and, where it reads texts,
    ContentUnreadable.
    """

    def __init__(self, databases: Databases, keys: SqlContentKeys) -> None:
        self._databases = databases
        self._keys = keys

    def storages(self) -> Sequence[ContentStorage]:
        """Gives the places where there may be content.

        Raises:
            StorageUnavailable: One of them does not answer.
        """
        return self._databases.all()

    def usable_storages(self) -> Sequence[ContentStorage]:
        """Gives the places that answer."""
        return self._databases.usable()


def owned(columns: Any, owner: Owner) -> ColumnElement[bool]:
    """Gives the condition that a row is the owner's."""
    return and_(columns.tenant == owner.tenant, columns.principal == owner.principal)


async def change(session: AsyncSession, statement: Any) -> int:
    """Executes a statement; gives how many rows it changed."""
    return cast("CursorResult[Any]", await session.execute(statement)).rowcount


def lowered(table: Table, version: int) -> dict[str, object]:
    """Gives the column that a text is written with which `version` seals: the row's lowest version."""
    return {"key_version": case((table.c.key_version < version, table.c.key_version), else_=version)}
