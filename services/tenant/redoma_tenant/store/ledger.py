"""The ledger and its sums by the hour, in SQL: how they are written. They are written in one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_tenant.ledger import LedgerTransaction, TransactionKind
from redoma_tenant.meter.periods import hour_of
from redoma_tenant.store.schema import LEDGER_ENTRIES, LEDGER_TRANSACTIONS, USAGE_HOURS
from redoma_tenant.store.upsert import upsert

SUMS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")


async def book(session: AsyncSession, transactions: Sequence[LedgerTransaction]) -> None:
    """Adds transactions with their entries, and what they sum up to."""
    connection = await session.connection()
    await connection.execute(insert(LEDGER_TRANSACTIONS), [_transaction_values(one) for one in transactions])
    entries = [values for one in transactions for values in _entry_values(one)]
    if entries:
        await connection.execute(insert(LEDGER_ENTRIES), entries)
    hours = upsert(session, USAGE_HOURS, lambda new: {name: USAGE_HOURS.c[name] + new[name] for name in SUMS})
    await connection.execute(hours, _hours(transactions))


async def read_booked(session: AsyncSession, tenant: str, token_ids: Iterable[str]) -> frozenset[str]:
    """Gives which of a tenant's calls have a settlement."""
    columns = LEDGER_TRANSACTIONS.c
    query = select(columns.token_id).where(
        columns.tenant_id == tenant, columns.token_id.in_(list(token_ids)), columns.revision == 0
    )
    return frozenset(await session.scalars(query))


def _transaction_values(one: LedgerTransaction) -> dict[str, object]:
    return {
        "tenant_id": one.tenant,
        "id": one.id,
        "token_id": one.token_id,
        "revision": one.revision,
        "kind": one.kind.value,
        "principal": one.caller.principal,
        "api_key_id": one.caller.api_key_id,
        "user_id": one.caller.user_id,
        "model": one.model,
        "adapter": one.caller.adapter,
        "book_time": one.book_time,
    }


def _entry_values(one: LedgerTransaction) -> list[dict[str, object]]:
    return [
        {
            "tenant_id": one.tenant,
            "transaction_id": one.id,
            "line": line,
            "account": entry.account,
            "unit": entry.unit,
            "amount": entry.amount,
        }
        for line, entry in enumerate(one.entries())
    ]


def _hours(transactions: Sequence[LedgerTransaction]) -> list[dict[str, object]]:
    """Gives a row for each key."""
    sums: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for one in transactions:
        caller = one.caller
        key = (one.tenant, hour_of(one.book_time), caller.api_key_id, caller.user_id, one.model, caller.adapter)
        is_request = int(one.kind is TransactionKind.SETTLEMENT)
        sums[key] = [total + more for total, more in zip(sums[key], (is_request, *one.amounts.values()), strict=True)]
    keys = [column.name for column in USAGE_HOURS.primary_key]
    return [dict(zip((*keys, *SUMS), (*key, *sums[key]), strict=True)) for key in sums]
