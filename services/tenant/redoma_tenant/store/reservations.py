"""What calls hold, in SQL."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, bindparam, delete, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_tenant.meter.counters import Amount, Period
from redoma_tenant.meter.counts import TokenCounts
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.reservation import Caller, Reservation, ReservationState
from redoma_tenant.reconciliation import DueCall
from redoma_tenant.store.schema import RESERVATIONS, UtcDateTime

COLUMNS = RESERVATIONS.c
# What never changes of a call.
FIXED = frozenset(
    {
        "tenant_id",
        "token_id",
        "principal",
        "api_key_id",
        "user_id",
        "adapter",
        "reserved_input_tokens",
        "day",
        "month",
        "create_time",
    }
)
PRUNED_AT_ONCE = 1_000


async def read_reservations(session: AsyncSession, tenant: str, token_ids: Iterable[str]) -> dict[str, Reservation]:
    """Gives a tenant's calls by their `jti`, those there are of them."""
    query = select(RESERVATIONS).where(COLUMNS.tenant_id == tenant, COLUMNS.token_id.in_(list(token_ids)))
    return {row["token_id"]: _reservation(row) for row in (await session.execute(query)).mappings()}


async def add_reservations(session: AsyncSession, tenant: str, reservations: Sequence[Reservation]) -> None:
    """Adds calls."""
    connection = await session.connection()
    await connection.execute(insert(RESERVATIONS), [_values(tenant, one) for one in reservations])


async def change_reservations(session: AsyncSession, tenant: str, reservations: Sequence[Reservation]) -> None:
    """Writes what may have changed of calls."""
    names = [column.name for column in COLUMNS if column.name not in FIXED]
    statement = (
        update(RESERVATIONS)
        .where(COLUMNS.tenant_id == bindparam("of_tenant"), COLUMNS.token_id == bindparam("of_token"))
        .values({name: bindparam(f"new_{name}", type_=COLUMNS[name].type) for name in names})
    )
    rows = []
    for one in reservations:
        values = _values(tenant, one)
        rows.append({"of_tenant": tenant, "of_token": one.token_id} | {f"new_{name}": values[name] for name in names})
    connection = await session.connection()
    await connection.execute(statement, rows)


class SqlDueCallStore:
    """Calls of all tenants whose last counts are to be asked for; replicas share them."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_due(self, now: datetime, limit: int) -> Sequence[DueCall]:
        """Gives calls whose time has come, and lets no other replica have them until they are due again.

        They are due again after a time that grows with how long they have been.
        """
        return await self._database.run(PLATFORM, lambda session: _claim(session, now, limit))

    async def prune_closed(self, before: datetime) -> int:
        """Deletes calls that are closed and lapsed before, at most PRUNED_AT_ONCE, and says how many."""
        keys = tuple_(COLUMNS.tenant_id, COLUMNS.token_id)
        old = (
            select(COLUMNS.tenant_id, COLUMNS.token_id)
            .where(COLUMNS.state == ReservationState.CLOSED.value, COLUMNS.lapse_time < before)
            .limit(PRUNED_AT_ONCE)
        )

        async def work(session: AsyncSession) -> int:
            gone = await session.execute(delete(RESERVATIONS).where(keys.in_(old)).returning(COLUMNS.token_id))
            return len(gone.all())

        return await self._database.run(PLATFORM, work)


async def _claim(session: AsyncSession, now: datetime, limit: int) -> list[DueCall]:
    due = COLUMNS.lapse_time <= now
    query = (
        select(RESERVATIONS)
        .where(or_(COLUMNS.state == ReservationState.OPEN.value, COLUMNS.state == ReservationState.SETTLED.value), due)
        .order_by(COLUMNS.lapse_time)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = (await session.execute(query)).mappings().all()
    calls = [DueCall.found(row["tenant_id"], _reservation(row), now) for row in rows]
    if calls:
        statement = (
            update(RESERVATIONS)
            .where(COLUMNS.tenant_id == bindparam("of_tenant"), COLUMNS.token_id == bindparam("of_token"))
            # Not a call that was renewed or settled meanwhile.
            .where(COLUMNS.lapse_time == bindparam("former", type_=UtcDateTime))
            .values(lapse_time=bindparam("again", type_=UtcDateTime), settle_time=bindparam("since", type_=UtcDateTime))
        )
        connection = await session.connection()
        await connection.execute(statement, [_claimed(call, now) for call in calls])
    return calls


def _claimed(call: DueCall, now: datetime) -> Mapping[str, object]:
    return {
        "of_tenant": call.tenant,
        "of_token": call.token_id,
        "former": call.lapse_time,
        "again": call.due_again(now),
        "since": call.since,
    }


def _values(tenant: str, one: Reservation) -> dict[str, object]:
    return {
        "tenant_id": tenant,
        "token_id": one.token_id,
        "state": one.state.value,
        "principal": one.caller.principal,
        "api_key_id": one.caller.api_key_id,
        "user_id": one.caller.user_id,
        "model": one.model,
        "adapter": one.caller.adapter,
        "held_tokens": one.held.tokens,
        "held_nanos": one.held.nanos,
        "reserved_input_tokens": one.reserved_input_tokens,
        "granted_output_tokens": one.granted_output_tokens,
        "input_tokens": one.counts.input_tokens,
        "cached_input_tokens": one.counts.cached_input_tokens,
        "output_tokens": one.counts.output_tokens,
        "reasoning_tokens": one.counts.reasoning_tokens,
        "input_micros_per_million": one.price.input_micros,
        "cached_input_micros_per_million": one.price.cached_input_micros,
        "output_micros_per_million": one.price.output_micros,
        "is_exact": one.is_exact,
        "day": one.period.day,
        "month": one.period.month,
        "revision": one.revision,
        "create_time": one.create_time,
        "lapse_time": one.lapse_time,
        "settle_time": one.settle_time,
    }


def _reservation(row: RowMapping) -> Reservation:
    return Reservation(
        token_id=row["token_id"],
        caller=Caller(row["principal"], row["api_key_id"], row["user_id"], row["adapter"]),
        model=row["model"],
        price=Price(
            row["input_micros_per_million"], row["cached_input_micros_per_million"], row["output_micros_per_million"]
        ),
        reserved_input_tokens=row["reserved_input_tokens"],
        granted_output_tokens=row["granted_output_tokens"],
        held=Amount(row["held_tokens"], row["held_nanos"]),
        create_time=row["create_time"],
        lapse_time=row["lapse_time"],
        period=Period(row["day"], row["month"]),
        state=ReservationState(row["state"]),
        counts=TokenCounts(
            row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"]
        ),
        is_exact=row["is_exact"],
        revision=row["revision"],
        settle_time=row["settle_time"],
    )
