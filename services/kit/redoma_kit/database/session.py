"""The session that stores are handed: it lives inside one transaction, which ends where its block does."""

from typing import NoReturn

from sqlalchemy.ext.asyncio import AsyncSession


class ScopedSession(AsyncSession):
    """A session that can't end its transaction: the next one would run on nobody's behalf. Savepoints are fine."""

    async def commit(self) -> NoReturn:
        """Refuses.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a transaction commits at the end of its block")

    async def rollback(self) -> NoReturn:
        """Refuses.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a transaction rolls back when its block raises; use begin_nested for a part of it")
