"""The outbox in SQL: settlements that the meter has not taken yet, in the database where their answers are."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_chat.content_storage import ContentStorage
from redoma_chat.inference import FinishReason, Usage
from redoma_chat.metering.meter import CallKey, Settlement
from redoma_chat.store.databases import Databases
from redoma_chat.tables import SETTLEMENTS
from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import StorageUnavailable

S = SETTLEMENTS.c
# Who claims settlements sends them within that time, or has died.
CLAIM_US = 10_000_000


class SqlOutbox:
    """Keeps settlements. Replicas that share a database share its outbox."""

    def __init__(self, databases: Databases, now_us: Callable[[], int]) -> None:
        self._databases = databases
        self._now_us = now_us

    async def keep(self, settlements: Sequence[Settlement]) -> None:
        """Keeps settlements; those that are there already stay as they are."""
        async with self._databases.of(ContentStorage.PUBLIC).transaction(PLATFORM) as session:
            for settlement in settlements:
                await keep_settlement(session, settlement, self._now_us())

    async def claim(self, limit: int) -> list[Settlement]:
        """Gives settlements that nobody sends, the oldest first, and keeps them from others for a while."""
        found: list[Settlement] = []
        for storage in self._databases.usable():
            # One database that is away must not keep what is in the other.
            with suppress(StorageUnavailable):
                found += await self._claim(self._databases.of(storage), limit - len(found))
        return found

    async def forget(self, settlements: Sequence[Settlement]) -> None:
        """Deletes settlements that the meter has."""
        keys = [(settlement.key.tenant, settlement.key.token_id) for settlement in settlements]
        for storage in self._databases.usable():
            # What stays is sent again, which does no harm.
            with suppress(StorageUnavailable):
                async with self._databases.of(storage).transaction(PLATFORM) as session:
                    await session.execute(delete(SETTLEMENTS).where(tuple_(S.tenant, S.token_id).in_(keys)))

    async def _claim(self, database: Database, limit: int) -> list[Settlement]:
        now_us = self._now_us()
        free = select(SETTLEMENTS).where(S.claimed_until_us <= now_us).order_by(S.create_time_us).limit(limit)
        async with database.transaction(PLATFORM) as session:
            rows = (await session.execute(free.with_for_update(skip_locked=True))).all()
            if rows:
                keys = [(row.tenant, row.token_id) for row in rows]
                claim = update(SETTLEMENTS).where(tuple_(S.tenant, S.token_id).in_(keys))
                await session.execute(claim.values(claimed_until_us=now_us + CLAIM_US))
        return [_settlement(row) for row in rows]


async def keep_settlement(session: AsyncSession, settlement: Settlement, now_us: int) -> None:
    """Puts a settlement into the outbox of a transaction's database, unless it is there."""
    values = {
        "tenant": settlement.key.tenant,
        "token_id": settlement.key.token_id,
        "model": settlement.model,
        "finish_reason": settlement.finish_reason.value if settlement.finish_reason else None,
        "is_exact": settlement.exact,
        **asdict(settlement.usage),
        "create_time_us": now_us,
        "claimed_until_us": 0,
    }
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    await session.execute(dialect.insert(SETTLEMENTS).values(values).on_conflict_do_nothing())


def _settlement(row: Row[Any]) -> Settlement:
    return Settlement(
        CallKey(row.tenant, row.token_id),
        Usage(row.input_tokens, row.cached_input_tokens, row.output_tokens, row.reasoning_tokens),
        row.is_exact,
        FinishReason(row.finish_reason) if row.finish_reason else None,
        row.model,
    )
