"""The feed of changes: none is missed, however late it becomes visible, and what can't be read is not relied on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_tenant import changes as module
from redoma_tenant.change import Change, Expiry
from redoma_tenant.changes import LOOK_BACK, STALE_S, ChangeFeed

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ENOUGH_S = 30.0


def change(position: int, principal: str = "tenants/acme/apiKeys/k", reason: str = "CREDENTIAL_REVOKED") -> Change:
    """Gives a change."""
    return Change(position, "acme", principal, reason, NOON)


@dataclass(slots=True)
class Store:
    """Holds what a test makes visible."""

    changes: list[Change] = field(default_factory=list)
    expiries: list[Expiry] = field(default_factory=list)
    away: bool = False
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    reads: list[int] = field(default_factory=list)
    pruned_before: datetime | None = None

    async def read_changes(self, after: int, others: Sequence[int]) -> Sequence[Change]:
        """Reads."""
        self._check()
        self.reads.append(after)
        return sorted(
            (one for one in self.changes if one.position > after or one.position in others),
            key=lambda one: one.position,
        )

    async def newest_position(self) -> int:
        """Looks."""
        self._check()
        return max((one.position for one in self.changes), default=0)

    async def read_expiries(self, after: datetime, until: datetime) -> Sequence[Expiry]:
        """Reads."""
        self._check()
        return [expiry for expiry in self.expiries if after < expiry.time <= until]

    async def prune_changes(self, before: datetime) -> None:
        """Notes it."""
        self.pruned_before = before

    def _check(self) -> None:
        if self.away:
            self.refused.set()
            raise StorageUnavailable()


@dataclass(slots=True)
class Site:
    """A feed, what it reads, what it told, and its clocks."""

    store: Store = field(default_factory=Store)
    told: list[Change] = field(default_factory=list)
    passed_s: float = 0.0
    feed: ChangeFeed = field(init=False)

    def __post_init__(self) -> None:
        self.feed = ChangeFeed(self.store, [self.told.append], self.now, self.monotonic, structlog.get_logger())

    def now(self) -> datetime:
        """The time of day."""
        return NOON + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        """Seconds."""
        return self.passed_s

    async def read(self) -> list[Change]:
        """Reads the feed, and gives what it told."""
        self.told.clear()
        async with asyncio.timeout(ENOUGH_S):
            await self.feed.caught_up()
        return list(self.told)


@asynccontextmanager
async def running(*changes: Change) -> AsyncIterator[Site]:
    """A feed that has been read once."""
    site = Site(Store(list(changes)))
    site.feed.start()
    await site.read()
    yield site
    await site.feed.stop()


async def test_what_happened_before_the_start_is_not_told() -> None:
    async with running(change(1), change(2)) as site:
        assert site.told == []
        site.store.changes.append(change(3))
        assert await site.read() == [change(3)]
        assert await site.read() == []


@pytest.mark.parametrize("late", [7, 9])
async def test_a_change_that_becomes_visible_after_a_later_one_is_told(late: int) -> None:
    async with running(change(6)) as site:
        site.store.changes.append(change(10))
        assert await site.read() == [change(10)]
        site.store.changes.append(change(late))
        assert await site.read() == [change(late)]
        assert await site.read() == []


async def test_so_is_one_whose_transaction_was_open_at_the_start() -> None:
    async with running(change(6), change(8)) as site:
        site.store.changes.append(change(7))
        assert await site.read() == [change(7)]


async def test_positions_that_never_come_are_waited_for_no_longer_than_a_transaction_lasts() -> None:
    async with running(change(1)) as site:
        site.store.changes.append(change(500))
        await site.read()
        assert site.feed._missing
        site.passed_s += module.LONGEST_TRANSACTION_S + 1
        await site.read()
        assert not site.feed._missing


async def test_a_great_leap_takes_bounded_memory() -> None:
    async with running(change(1)) as site:
        for position in range(1, 20):
            site.store.changes.append(change(position * 10**7))
        await site.read()
        assert len(site.feed._missing) <= module.MAX_MISSING


async def test_nothing_cached_counts_before_the_first_reading_nor_long_after_the_last() -> None:
    site = Site()
    assert not site.feed.is_fresh
    site.feed.start()
    await site.read()
    assert site.feed.is_fresh
    site.store.away = True
    site.passed_s += STALE_S
    assert site.feed.is_fresh
    site.passed_s += 0.001
    assert not site.feed.is_fresh
    await site.feed.stop()


async def test_an_outage_ends_everything_that_is_cached() -> None:
    async with running() as site:
        site.store.away = True
        site.feed._poll.wake()
        await asyncio.wait_for(site.store.refused.wait(), ENOUGH_S)
        site.passed_s += 10
        site.store.away = False
        assert [(one.tenant, one.principal, one.reason) for one in await site.read()] == [("", "", "")]
        assert site.feed.is_fresh


async def test_a_key_is_told_of_at_the_moment_it_expires_and_once() -> None:
    async with running() as site:
        site.store.expiries.append(Expiry("acme", "tenants/acme/apiKeys/k", NOON + timedelta(seconds=90)))
        site.passed_s = 40
        assert await site.read() == []
        site.passed_s = 89.9
        assert await site.read() == []
        site.passed_s = 90
        told = await site.read()
        assert [(one.principal, one.reason) for one in told] == [("tenants/acme/apiKeys/k", "CREDENTIAL_EXPIRED")]
        assert await site.read() == []


async def test_an_expiry_that_is_brought_forward_is_noticed() -> None:
    async with running() as site:
        site.passed_s = 1
        site.store.expiries.append(Expiry("acme", "tenants/acme/apiKeys/k", NOON + timedelta(seconds=2)))
        site.store.changes.append(change(1, reason=""))
        assert await site.read() == [change(1, reason="")]
        site.passed_s = 2
        assert [one.reason for one in await site.read()] == ["CREDENTIAL_EXPIRED"]


async def test_followers_hear_everything_in_order() -> None:
    async with running() as site, aclosing(site.feed.follow(0)) as following:
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        site.store.changes += [change(1), change(2)]
        await site.read()
        assert await first == change(1)
        assert await anext(following) == change(2)


async def test_followers_that_come_back_hear_what_they_missed() -> None:
    late = change(LOOK_BACK + 4)
    async with running(change(2), late, change(LOOK_BACK + 5)) as site:
        site.store.expiries.append(Expiry("acme", "tenants/acme/apiKeys/old", NOON - timedelta(minutes=1)))
        async with aclosing(site.feed.follow(LOOK_BACK + 5)) as following:
            heard = [await anext(following) for _ in range(3)]
        assert heard[:2] == [late, change(LOOK_BACK + 5)]
        assert heard[2] is not None
        assert (heard[2].principal, heard[2].reason) == ("tenants/acme/apiKeys/old", "CREDENTIAL_EXPIRED")


async def test_followers_hear_that_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    async with running() as site, aclosing(site.feed.follow(0)) as following:
        assert await anext(following) is None
        site.passed_s += STALE_S + 0.1
        site.store.away = True
        with pytest.raises(StorageUnavailable):
            await anext(following)
    assert not site.feed._followers


async def test_a_follower_that_does_not_read_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD", 2)
    async with running() as site, aclosing(site.feed.follow(0)) as following:
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        site.store.changes += [change(position) for position in range(1, 5)]
        await site.read()
        with pytest.raises(StorageUnavailable):
            await first


async def test_old_changes_are_pruned() -> None:
    async with running() as site:
        await site.read()
        assert site.store.pruned_before == NOON - module.KEPT
