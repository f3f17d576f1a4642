"""Follows the feed of changes, so that what is revoked through one replica is refused by all within a second."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic
from redoma_tenant.change import Change, ChangeStore, Expiry

POLL_INTERVAL_S = 0.25
# What was read this long ago is no ground to admit anyone. Half of the second that is promised is left for the rest.
STALE_S = 0.75
HEARTBEAT_S = 1.0
# A change's position is drawn before it becomes visible, by a transaction that lasts no longer than this.
LONGEST_TRANSACTION_S = 120.0
LOOK_BACK = 1_000
MAX_MISSING = 5_000
MAX_UNREAD = 10_000
# Keys that expire so soon are known beforehand, and looked for so often.
EXPIRY_HORIZON = timedelta(seconds=60)
EXPIRY_INTERVAL = timedelta(seconds=30)
# Calls run no longer, so who comes back need not hear of keys that expired before.
LONGEST_CALL = timedelta(hours=1)
KEPT = timedelta(hours=6)
PRUNE_INTERVAL_S = 900.0
STOP_S = 2.0
EXPIRED = "CREDENTIAL_EXPIRED"


Listener = Callable[[Change], None]


@dataclass(eq=False, slots=True)
class _Follower:
    unread: deque[Change] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    has_lost: bool = False

    def tell(self, change: Change) -> None:
        if len(self.unread) >= MAX_UNREAD:
            self.has_lost = True
        else:
            self.unread.append(change)
        self.woken.set()


class ChangeFeed:
    """Reads the feed several times a second and tells its listeners, at once, and its followers.

    Keys that expire are told of as changes too, at the moment they do.
    """

    def __init__(
        self,
        store: ChangeStore,
        listeners: Iterable[Listener],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._listeners = tuple(listeners)
        self._now = now
        self._monotonic = monotonic
        self._log = log
        self._followers: set[_Follower] = set()
        self._position = -1
        # Positions that were passed over, by when that was noticed: drawn, and not visible yet or never to be.
        self._missing: dict[int, float] = {}
        # When the feed was read last, or rather when that reading began.
        self._read_at = float("-inf")
        self._is_away = False
        # Readings are numbered: the last that has begun, and the last that was done.
        self._begun = self._done = 0
        self._readings = asyncio.Condition()
        self._in_transaction = asyncio.Lock()
        self._expired_until = now()
        self._expiries_read_at: datetime | None = None
        self._upcoming: Sequence[Expiry] = ()
        self._poll = Periodic("credential changes", POLL_INTERVAL_S, self._read, log)
        self._prune = Periodic("credential changes, old ones", PRUNE_INTERVAL_S, self._prune_old, log)

    @property
    def is_fresh(self) -> bool:
        """Whether all changes are known but those of the last moments; what is cached counts only then."""
        return self._monotonic() - self._read_at <= STALE_S

    @property
    def position(self) -> int:
        """The greatest position that was read, to come back to; never 0, which would be from then on."""
        return max(self._position, 1)

    def start(self) -> None:
        """Begins to read."""
        self._poll.start()
        self._prune.start()

    async def stop(self) -> None:
        """Ends reading, between two transactions unless the database hangs."""
        try:
            async with asyncio.timeout(STOP_S):
                await self._in_transaction.acquire()
        except TimeoutError:
            self._log.warning("credential changes are still being read")
        await self._poll.stop()
        await self._prune.stop()

    async def caught_up(self) -> None:
        """Returns when all that was committed before the call is known here."""
        wanted = self._begun + 1
        self._poll.wake()
        async with self._readings:
            await self._readings.wait_for(lambda: self._done >= wanted)

    async def follow(self, after_position: int) -> AsyncGenerator[Change | None, None]:
        """Gives changes as they happen, and None each second that there is nothing to tell.

        Some may come twice. What happened after `after_position` comes first; 0 is from now on.

        Raises:
            StorageUnavailable: Changes can't be read, or the reader was too slow; come back with the last position.
        """
        follower = _Follower()
        self._followers.add(follower)
        try:
            if after_position > 0:
                for change in await self._missed(after_position):
                    yield change
            while True:
                change_or_none = await self._next(follower)
                yield change_or_none
        finally:
            self._followers.discard(follower)

    async def _missed(self, after_position: int) -> list[Change]:
        changes = list(await self._store.read_changes(max(0, after_position - LOOK_BACK), ()))
        now = self._now()
        expired = await self._store.read_expiries(now - LONGEST_CALL, now)
        return changes + [_change_of(expiry, after_position) for expiry in expired]

    async def _next(self, follower: _Follower) -> Change | None:
        if not follower.unread:
            follower.woken.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await follower.woken.wait()
            except TimeoutError:
                if not self.is_fresh:
                    raise StorageUnavailable() from None
                return None
        if follower.has_lost:
            raise StorageUnavailable()
        return follower.unread.popleft()

    async def _read(self) -> None:
        async with self._in_transaction:
            await self._read_once()

    async def _read_once(self) -> None:
        self._begun += 1
        began = self._monotonic()
        try:
            changes = await self._new_changes()
            await self._read_expiries(any("/apiKeys/" in change.principal for change in changes))
        except StorageUnavailable:
            if not self._is_away:
                self._log.error("credential changes can't be read")
            self._is_away = True
            return
        if self._is_away:
            self._log.info("credential changes are read again")
            self._is_away = False
            # Much may have been pruned, or another database be in the place of the former.
            self._tell(Change(self._position, "", "", "", self._now()))
        for change in changes:
            self._tell(change)
        self._tell_expired()
        async with self._readings:
            self._read_at, self._done = began, self._begun
            self._readings.notify_all()

    async def _new_changes(self) -> Sequence[Change]:
        if self._position < 0:
            # Nothing is cached yet, but a transaction that has drawn its position may be about to commit.
            newest = await self._store.newest_position()
            self._position = max(0, newest - LOOK_BACK)
            changes = await self._store.read_changes(self._position, ())
            self._advance(changes)
            return ()
        changes = await self._store.read_changes(self._position, tuple(self._missing))
        self._advance(changes)
        return changes

    def _advance(self, changes: Sequence[Change]) -> None:
        noticed = self._monotonic()
        for change in changes:
            if change.position > self._position:
                first = max(self._position + 1, change.position - LOOK_BACK)
                self._missing.update((position, noticed) for position in range(first, change.position))
                self._position = change.position
            else:
                self._missing.pop(change.position, None)
        while self._missing:
            oldest = next(iter(self._missing))
            if len(self._missing) <= MAX_MISSING and noticed - self._missing[oldest] <= LONGEST_TRANSACTION_S:
                return
            del self._missing[oldest]

    async def _read_expiries(self, has_changed: bool) -> None:
        now = self._now()
        is_due = self._expiries_read_at is None or now - self._expiries_read_at >= EXPIRY_INTERVAL
        if has_changed or is_due:
            self._upcoming = await self._store.read_expiries(self._expired_until, now + EXPIRY_HORIZON)
            self._expiries_read_at = now

    def _tell_expired(self) -> None:
        now = self._now()
        for expiry in self._upcoming:
            if self._expired_until < expiry.time <= now:
                self._tell(_change_of(expiry, self._position))
        self._expired_until = max(self._expired_until, now)

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)
        for follower in self._followers:
            follower.tell(change)

    async def _prune_old(self) -> None:
        async with self._in_transaction:
            await self._store.prune_changes(self._now() - KEPT)


def _change_of(expiry: Expiry, position: int) -> Change:
    return Change(position, expiry.tenant, expiry.principal, EXPIRED, expiry.time)
