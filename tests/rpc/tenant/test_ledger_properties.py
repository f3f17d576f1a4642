"""Whatever happens to calls, in whatever order: no limit is passed, and the ledger has what the model has counted."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import CredentialInvalid
from redoma_tenant.errors import QuotaExceeded
from redoma_tenant.limits import AtLimit, Limits, limits_to_json
from redoma_tenant.meter.counts import NOTHING, TokenCounts
from redoma_tenant.meter.meter import Meter
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.periods import day_of, month_of
from redoma_tenant.meter.queue import AccountQueue
from redoma_tenant.meter.reservation import Caller
from redoma_tenant.meter.told import Certainty, Checkpoint, Ending, Start
from redoma_tenant.reconciliation import Reconciler, UsageRecord
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.meter import SqlAccountStore
from redoma_tenant.store.prices import SqlPriceStore
from redoma_tenant.store.reservations import SqlDueCallStore
from redoma_tenant.store.schema import (
    API_KEYS,
    LEDGER_ENTRIES,
    LEDGER_TRANSACTIONS,
    QUOTA_COUNTERS,
    RESERVATIONS,
    TENANTS,
    USAGE_HOURS,
)

TENANT = "acme"
KEY = "0123456789abcdef"
# Shortly before the end of a day, a month and a year.
BEGIN = datetime(2030, 12, 31, 23, 58, tzinfo=UTC)
KEY_LIMITS = Limits(tokens_per_day=2_500)
PRICES = {"m": Price(300, 30, 1_100), "dear": Price(900, 900, 2_000), "*": Price(7, 1, 3)}
DAY_S = 86_400
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
LOG = structlog.wrap_logger(structlog.ReturnLogger())


@dataclass(slots=True)
class Call:
    """A call as it truly is: what the model has counted, and what chat was told so far."""

    token_id: str
    begin: datetime
    input_tokens: int
    model: str
    granted: int | None
    caller: Caller
    counts: TokenCounts = NOTHING
    told: TokenCounts = NOTHING
    journaled: TokenCounts = NOTHING
    has_ended: bool = False
    is_forgotten: bool = False
    is_settled: bool = False
    is_given_up: bool = False
    speaks_late: bool = False

    def say(self, tokens: int) -> int:
        """Generates, within the grant, and gives how many tokens that was."""
        if self.has_ended or self.is_forgotten:
            return 0
        said = self.counts.output_tokens + tokens
        output = said if self.granted is None else min(said, self.granted)
        before = self.counts.tokens
        self.counts = TokenCounts(self.input_tokens, self.input_tokens // 3, output, output // 2)
        return self.counts.tokens - before


@dataclass(slots=True)
class World:
    """Tenants' calls, the meter, a model's journal, and a clock."""

    database: Database
    limits: Limits
    now: datetime = BEGIN
    calls: list[Call] = field(default_factory=list)
    spent: list[tuple[datetime, int]] = field(default_factory=list)
    is_reachable: bool = True
    meter: Meter = field(init=False)
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        queue = AccountQueue(SqlAccountStore(self.database), lambda: self.now, lambda _: None)
        self.meter = Meter(queue)
        self.reconciler = Reconciler(SqlDueCallStore(self.database), self.meter, self, lambda: self.now, LOG)

    async def records(self, token_ids: Sequence[str]) -> Sequence[Sequence[UsageRecord] | None]:
        """Plays the model process."""
        if not self.is_reachable:
            return [None]
        asked = [call for call in self.calls if call.token_id in token_ids]
        known = [call for call in asked if not call.is_forgotten and call.counts != NOTHING]
        for call in known:
            call.journaled = call.counts if call.has_ended else call.journaled
        return [[UsageRecord(call.token_id, TENANT, call.model, call.counts, call.has_ended) for call in known]]

    async def set_up(self, at_limit: AtLimit) -> None:
        """Adds the tenant, its key and prices."""
        tenant = {
            "id": TENANT, "display_name": "", "state": "ACTIVE", "weight": 0, "content_checks": {},
            "create_time": BEGIN, "update_time": BEGIN, "version": 1, "isolation": "SHARED", "adapter": "",
            "models": [], "region": "", "retention_s": 0, "tuning_consent": False, "content_storage": "PUBLIC",
            "limits": limits_to_json(self.limits), "at_limit": at_limit.value, "quota_version": 1,
        }  # fmt: skip
        key = {
            "id": KEY, "tenant_id": TENANT, "display_name": "", "prefix": "p", "digest": "d", "scopes": [],
            "create_time": BEGIN, "models": [], "cidrs": [], "limits": limits_to_json(KEY_LIMITS), "version": 1,
        }  # fmt: skip
        async with self.database.transaction(PLATFORM) as session:
            await session.execute(insert(TENANTS).values(tenant))
            await session.execute(insert(API_KEYS).values(key))
        for model, price in PRICES.items():
            await SqlPriceStore(self.database).set_price(model, price)

    async def reserve(self, with_key: bool, asked: str, answers: str, input_tokens: int, most: int) -> None:
        """Begins a call if the meter lets it."""
        key = KEY if with_key else ""
        caller = Caller(f"tenants/{TENANT}/apiKeys/{key}", key, "", "")
        start = Start(f"call-{len(self.calls)}", caller, asked, input_tokens, most)
        try:
            grant = await self.meter.reserve(TENANT, start)
        except QuotaExceeded as refusal:
            note(refusal.message)
            return
        model = asked if asked in PRICES and asked != "*" else answers
        self.calls.append(Call(start.token_id, self.now, input_tokens, model, grant.granted_output_tokens, caller))

    def _call(self, which: int) -> Call | None:
        return self.calls[-1 - which] if which < len(self.calls) else None

    async def reserve_again(self, which: int) -> None:
        """A chat says it twice."""
        if (call := self._call(which)) is None:
            return
        start = Start(call.token_id, call.caller, "m", 1, 1)
        try:
            await self.meter.reserve(TENANT, start)
        except CredentialInvalid:
            note("replayed")

    async def say(self, which: int, tokens: int) -> None:
        """The model generates, maybe for a chat that was stuck and that all had given up."""
        if (call := self._call(which)) is not None:
            said = call.say(tokens)
            call.speaks_late = call.speaks_late or (call.is_given_up and said > 0)
            self.spent.append((self.now, said))

    async def checkpoint(self, which: int, wanted: int) -> None:
        """Chat tells what it knows, which is not always the latest."""
        if (call := self._call(which)) is None or call.is_settled:
            return
        told = call.counts if wanted % 3 else call.told
        [verdict] = await self.meter.checkpoint(TENANT, [Checkpoint(call.token_id, told, wanted)])
        call.told = call.told.at_least(told) if verdict.end != "RESOURCE_NOT_FOUND" else call.told
        if verdict.end == "RESOURCE_NOT_FOUND":
            call.has_ended = True
        elif verdict.granted_output_tokens is not None:
            assert call.granted is not None and verdict.granted_output_tokens >= call.granted
            call.granted = verdict.granted_output_tokens

    async def settle(self, which: int, is_exact: bool) -> None:
        """Chat settles, with the last counts or with what it was told before; said twice it changes nothing."""
        if (call := self._call(which)) is None:
            return
        call.has_ended = True
        told = call.counts if is_exact else call.told
        certainty = Certainty.EXACT if is_exact else Certainty.SO_FAR
        ending = Ending(call.token_id, told, certainty, call.model if told != NOTHING else "")
        assert await self.meter.settle(TENANT, [ending]) == [True]
        call.told, call.is_settled = call.told.at_least(told), True

    async def forget(self, which: int) -> None:
        """The model process is killed and started again."""
        if (call := self._call(which)) is not None and not call.is_settled:
            call.is_forgotten = call.has_ended = True

    async def wait(self, seconds: float) -> None:
        """Time passes. In a day nothing runs on, and no model process is away for so long."""
        if seconds > DAY_S:
            await self.end()
        self.now += timedelta(seconds=seconds)

    async def reconcile(self, is_reachable: bool) -> None:
        """The background work runs."""
        self.is_reachable = is_reachable
        await self.reconciler.reconcile()
        query = select(RESERVATIONS.c.token_id).where(RESERVATIONS.c.state == "CLOSED")
        async with self.database.transaction(PLATFORM) as session:
            closed = set(await session.scalars(query))
        for call in self.calls:
            call.is_given_up = call.token_id in closed

    def check_limits(self) -> None:
        """No limit is passed by what was truly used."""
        today = [call for call in self.calls if day_of(call.begin) == day_of(self.now)]
        month = [call for call in self.calls if month_of(call.begin) == month_of(self.now)]
        used_today, used_in_month = (sum(call.counts.tokens for call in calls) for calls in (today, month))
        spent_nanos = sum(_cost(call.model, call.counts) for call in month)
        assert used_today <= _bound(self.limits.tokens_per_day)
        assert used_in_month <= _bound(self.limits.tokens_per_month)
        assert spent_nanos <= 1_000 * _bound(self.limits.budget_micros_per_month)
        assert sum(call.counts.tokens for call in today if call.caller.api_key_id) <= _bound(KEY_LIMITS.tokens_per_day)
        _check_rate(self.spent, _bound(self.limits.tokens_per_minute))
        _check_rate([(call.begin, 1) for call in self.calls], _bound(self.limits.requests_per_minute))

    async def check_holds(self) -> None:
        """Counters hold what calls hold."""
        async with self.database.transaction(PLATFORM) as session:
            columns = RESERVATIONS.c
            held_tokens = await session.scalar(select(func.coalesce(func.sum(columns.held_tokens), 0)))
            open_calls = await session.scalar(select(func.count()).where(columns.state == "OPEN"))
            counters = (
                await session.execute(select(QUOTA_COUNTERS).where(QUOTA_COUNTERS.c.api_key_id == ""))
            ).one_or_none()
        if counters is None:
            return
        assert (counters.held_tokens, counters.open_calls) == (held_tokens, open_calls)
        assert counters.open_calls <= _bound(self.limits.concurrent_streams)
        assert min(counters.day_held_tokens, counters.month_held_tokens, counters.month_held_nanos) >= 0

    async def end(self) -> None:
        """All calls end, those that were stuck are settled, and what is open is reconciled."""
        for index, call in enumerate(reversed(self.calls)):
            call.has_ended = True
            if call.speaks_late:
                await self.settle(index, is_exact=False)
        for _ in range(4):
            self.now += timedelta(minutes=2)
            await self.reconcile(is_reachable=True)

    async def check_books(self) -> None:
        """The ledger has what is true, twice."""
        async with self.database.transaction(PLATFORM) as session:
            entries = (
                await session.execute(
                    select(LEDGER_TRANSACTIONS, LEDGER_ENTRIES).join(
                        LEDGER_ENTRIES,
                        (LEDGER_ENTRIES.c.tenant_id == LEDGER_TRANSACTIONS.c.tenant_id)
                        & (LEDGER_ENTRIES.c.transaction_id == LEDGER_TRANSACTIONS.c.id),
                    )
                )
            ).all()
            transactions = (await session.execute(select(LEDGER_TRANSACTIONS))).all()
            hours = (await session.execute(select(USAGE_HOURS))).all()
            states = set(await session.scalars(select(RESERVATIONS.c.state)))
            counters = (await session.execute(select(QUOTA_COUNTERS))).all()
        assert states <= {"CLOSED"}
        for row in counters:
            held = (row.open_calls, row.held_tokens, row.day_held_tokens, row.month_held_tokens, row.month_held_nanos)
            assert held == (0, 0, 0, 0, 0)
        sides: Counter[tuple[str, str]] = Counter()
        booked: Counter[tuple[str, str]] = Counter()
        for row in entries:
            sides[row.transaction_id, row.unit] += row.amount
            if row.account == f"tenants/{TENANT}/usage":
                booked[row.token_id, row.unit] += row.amount
        assert not any(sides.values())
        for call in self.calls:
            told = TokenCounts(*(booked[call.token_id, unit] for unit in UNITS))
            if call.is_forgotten:
                # Of what its process has forgotten, what was heard of it before.
                assert told == told.at_least(call.told).at_least(call.journaled)
                assert call.counts == call.counts.at_least(told)
            else:
                assert told == call.counts
                assert booked[call.token_id, "cost_nanos"] == _cost(call.model, call.counts)
        settlements = [row.token_id for row in transactions if row.kind == "SETTLEMENT"]
        assert sorted(settlements) == sorted(call.token_id for call in self.calls)
        assert sum(row.requests for row in hours) == len(self.calls)
        for unit in (*UNITS, "cost_nanos"):
            total = sum(amount for (_, of), amount in booked.items() if of == unit)
            assert sum(getattr(row, unit) for row in hours) == total


def _cost(model: str, counts: TokenCounts) -> int:
    return PRICES.get(model, PRICES["*"]).cost_nanos(counts)


def _bound(limit: int | None) -> float:
    return float("inf") if limit is None else limit


def _check_rate(events: Sequence[tuple[datetime, int]], size: float) -> None:
    """In no span of time more than the bucket's size and what flows in; a millisecond's worth is rounding."""
    for first, (begin, _) in enumerate(events):
        total = 0
        for time, amount in events[first:]:
            total += amount
            assert total <= size * (1 + ((time - begin).total_seconds() + 0.002) / 60)


def happening(chance: random.Random) -> tuple[str, tuple[object, ...]]:
    """Gives one thing that may happen."""
    which = chance.choice([0, 1, 1, 2, 3])
    tokens = chance.choice([0, 1, 100, 900, 5_000])
    most = chance.choice([0, 0, 40, 500, 1_500])
    asked, answers = chance.choice(["m", "", "alias"]), chance.choice(["m", "dear", "other"])
    return chance.choice(
        [
            ("reserve", (chance.random() < 0.5, asked, answers, chance.choice([0, 1, 80, 300]), most)),
            ("reserve", (chance.random() < 0.5, asked, answers, chance.choice([0, 1, 80, 300]), most)),
            ("reserve_again", (which,)),
            ("say", (which, tokens)),
            ("say", (which, tokens)),
            ("checkpoint", (which, chance.choice([0, 1, 50, 1_024, 5_000]))),
            ("checkpoint", (which, chance.choice([0, 1, 50, 1_024, 5_000]))),
            ("settle", (which, chance.random() < 0.6)),
            ("forget", (which,)),
            ("wait", (chance.choice([0.01, 0.3, 1, 5, 20, 31, 60]),)),
            ("wait", (chance.choice([0.01, 0.3, 1, 5, 20, 31, 3_600, 90_000]),)),
            ("reconcile", (chance.random() < 0.7,)),
        ]
    )


def some_limits(chance: random.Random) -> Limits:
    """Gives limits, each of which may be the one that is reached."""

    def maybe(*sizes: int) -> int | None:
        return chance.choice([None, *sizes])

    return Limits(
        requests_per_minute=maybe(3, 7),
        tokens_per_minute=maybe(1_000, 3_000),
        concurrent_streams=maybe(2, 5),
        tokens_per_day=maybe(1_700, 5_000),
        tokens_per_month=maybe(1_900, 6_000),
        budget_micros_per_month=maybe(1, 3),
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database whose schema is up to date."""
    file = tmp_path_factory.mktemp("template") / "tenant.db"

    async def upgrade() -> None:
        database = Database(f"sqlite+aiosqlite:///{file}", LOG, SCHEMA)
        await database.upgrade(MIGRATIONS)
        await database.close()

    asyncio.run(upgrade())
    return file


def run(template: Path, limits: Limits, live: Callable[[World], Awaitable[None]]) -> None:
    """Runs a world on a database of its own."""
    file = template.with_name("world.db")
    for suffix in ("-wal", "-shm"):
        file.with_name(f"world.db{suffix}").unlink(missing_ok=True)
    shutil.copy(template, file)

    async def main() -> None:
        database = Database(f"sqlite+aiosqlite:///{file}", LOG, SCHEMA)
        try:
            await live(World(database, limits))
        finally:
            await database.close()

    asyncio.run(main())


SEEDS = st.integers(0, 2**32)
STEPS = st.integers(1, 120)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, steps=STEPS)
def test_no_limit_is_passed_and_the_ledger_is_true(template: Path, seed: int, steps: int) -> None:
    chance = random.Random(seed)

    async def live(world: World) -> None:
        await world.set_up(AtLimit.END)
        for _ in range(steps):
            name, arguments = happening(chance)
            await getattr(world, name)(*arguments)
            world.check_limits()
            await world.check_holds()
        await world.end()
        await world.check_books()

    run(template, some_limits(chance), live)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, steps=STEPS)
def test_the_ledger_is_true_also_where_answers_may_finish(template: Path, seed: int, steps: int) -> None:
    chance = random.Random(seed)

    async def live(world: World) -> None:
        await world.set_up(AtLimit.FINISH)
        for _ in range(steps):
            name, arguments = happening(chance)
            await getattr(world, name)(*arguments)
            await world.check_holds()
        await world.end()
        await world.check_books()

    run(template, some_limits(chance), live)
