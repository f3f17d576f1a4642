"""Accounts in SQL: one transaction reads an account, lets operations work on it, and writes what they changed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import Database, Scope
from redoma_tenant.limits import limits_from_json
from redoma_tenant.meter.account import WHOLE_TENANT, Account, KeyTerms
from redoma_tenant.meter.prices import PriceList
from redoma_tenant.meter.queue import Operation, UnknownTenant
from redoma_tenant.store.counters import NAMES as COUNTER_NAMES
from redoma_tenant.store.counters import counters_of, lock_counters, write_counters
from redoma_tenant.store.ledger import book, read_booked
from redoma_tenant.store.prices import read_prices
from redoma_tenant.store.reservations import add_reservations, change_reservations, read_reservations
from redoma_tenant.store.schema import API_KEYS, PLANS, QUOTA_COUNTERS, TENANTS, USERS
from redoma_tenant.store.terms import TERMS_COLUMNS, tenant_terms

ACTIVE_USER = "ACTIVE"
REVOKED, EXPIRED = "CREDENTIAL_REVOKED", "CREDENTIAL_EXPIRED"
KEY_COLUMNS = (
    API_KEYS.c.id.label("key_id"),
    API_KEYS.c.limits.label("key_limits"),
    API_KEYS.c.revoke_time,
    API_KEYS.c.expire_time,
    API_KEYS.c.user_id.label("key_user_id"),
    *(QUOTA_COUNTERS.c[name] for name in COUNTER_NAMES),
    QUOTA_COUNTERS.c.api_key_id.label("counters_of"),
)


class SqlAccountStore:
    """Keeps accounts in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def work(self, tenant: str, now: datetime, operations: Sequence[Operation[Any]]) -> Account:
        """Does the operations on a tenant's account, one after the other, and gives it as it is then.

        Raises:
            UnknownTenant: There is no such tenant.
            StorageUnavailable: The database does not answer; what was done may be there.
        """

        async def work(session: AsyncSession) -> Account:
            account = await _read(session, tenant, now, operations)
            for operation in operations:
                operation.on(account)
            await _write(session, account)
            return account

        return await self._database.run(Scope.of(tenant), work)


async def _read(session: AsyncSession, tenant: str, now: datetime, operations: Sequence[Operation[Any]]) -> Account:
    own = await lock_counters(session, tenant)
    token_ids = {token_id for operation in operations for token_id in operation.token_ids}
    reservations = await read_reservations(session, tenant, token_ids)
    callers = [caller for operation in operations for caller in operation.callers]
    callers += [reservation.caller for reservation in reservations.values()]
    rows = await _read_terms(session, tenant, {caller.api_key_id for caller in callers} - {""})
    users = {caller.user_id for caller in callers if not caller.api_key_id} - {""}
    missing = token_ids - reservations.keys()
    asks_for_ended = any(operation.may_have_ended for operation in operations)
    keys = [row for row in rows if row["key_id"] is not None]
    return Account(
        tenant=tenant,
        now=now,
        terms=tenant_terms(rows[0]),
        prices=await read_prices(session) if any(one.needs_prices for one in operations) else PriceList(),
        counters={WHOLE_TENANT: own}
        | {row["key_id"]: counters_of(row) for row in keys if row["counters_of"] is not None},
        keys={row["key_id"]: KeyTerms(limits_from_json(row["key_limits"]), _key_end(row, now)) for row in keys},
        users=await _read_user_ends(session, tenant, users) if users else {},
        key_users={row["key_id"]: row["key_user_id"] or "" for row in keys},
        reservations=reservations,
        booked=await read_booked(session, tenant, missing) if missing and asks_for_ended else frozenset(),
    )


async def _read_terms(session: AsyncSession, tenant: str, keys: Collection[str]) -> Sequence[RowMapping]:
    named = and_(API_KEYS.c.tenant_id == TENANTS.c.id, API_KEYS.c.id.in_(list(keys)))
    counted = and_(QUOTA_COUNTERS.c.tenant_id == API_KEYS.c.tenant_id, QUOTA_COUNTERS.c.api_key_id == API_KEYS.c.id)
    query = (
        select(*TERMS_COLUMNS, *KEY_COLUMNS)
        .select_from(TENANTS)
        .outerjoin(PLANS, PLANS.c.id == TENANTS.c.plan_id)
        .outerjoin(API_KEYS, named)
        .outerjoin(QUOTA_COUNTERS, counted)
        .where(TENANTS.c.id == tenant)
    )
    rows = (await session.execute(query)).mappings().all()
    if not rows:
        raise UnknownTenant(tenant)
    return rows


async def _read_user_ends(session: AsyncSession, tenant: str, users: Collection[str]) -> Mapping[str, str]:
    query = select(USERS.c.id).where(
        USERS.c.tenant_id == tenant, USERS.c.id.in_(list(users)), USERS.c.state == ACTIVE_USER
    )
    active = set(await session.scalars(query))
    return {user: "" if user in active else REVOKED for user in users}


def _key_end(row: RowMapping, now: datetime) -> str:
    if row["revoke_time"] is not None:
        return REVOKED
    return EXPIRED if row["expire_time"] is not None and row["expire_time"] <= now else ""


async def _write(session: AsyncSession, account: Account) -> None:
    tenant, reservations = account.tenant, account.reservations
    if account.opened:
        await add_reservations(session, tenant, [reservations[token_id] for token_id in account.opened])
    changed = account.changed - account.opened
    if changed:
        await change_reservations(session, tenant, [reservations[token_id] for token_id in changed])
    if account.transactions:
        await book(session, account.transactions)
    if account.touched:
        await write_counters(session, tenant, {key: account.counters[key] for key in account.touched})
