"""Last uses: at most one write a key and minute, none lost to a database that is away."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_tenant.caller import UsedKey
from redoma_tenant.last_use import LastUses

NOON = datetime(2026, 11, 20, 12, 0, 31, tzinfo=UTC)
MINUTE = NOON.replace(second=0)


def key(key_id: str, last_use_time: datetime | None = None) -> UsedKey:
    """Gives a key."""
    return UsedKey(key_id, last_use_time)


@dataclass(slots=True)
class RecordingStore:
    """Remembers what was written, unless it is away."""

    written: list[Mapping[str, datetime]] = field(default_factory=list)
    away: bool = False
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    async def write_last_uses(self, last_uses: Mapping[str, datetime]) -> None:
        """Remembers."""
        if self.away:
            raise StorageUnavailable()
        self.written.append(last_uses)
        self.wrote.set()


@dataclass(slots=True)
class Clock:
    """Stands still until set."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at


def make() -> tuple[LastUses, RecordingStore, Clock]:
    """Gives what a test needs."""
    store, clock = RecordingStore(), Clock()
    return LastUses(store, clock, structlog.get_logger()), store, clock


async def test_a_key_is_written_at_most_once_a_minute() -> None:
    uses, store, clock = make()
    for _ in range(3):
        uses.note(key("a"))
        await uses.flush()
    assert store.written == [{"a": MINUTE}]
    clock.at += timedelta(minutes=1)
    uses.note(key("a"))
    await uses.flush()
    assert store.written[1:] == [{"a": MINUTE + timedelta(minutes=1)}]


async def test_a_minute_that_another_replica_wrote_is_not_written_again() -> None:
    uses, store, _ = make()
    uses.note(key("a", MINUTE))
    await uses.flush()
    assert store.written == []


async def test_uses_are_written_together() -> None:
    uses, store, _ = make()
    uses.note(key("a"))
    uses.note(key("b"))
    await uses.flush()
    assert store.written == [{"a": MINUTE, "b": MINUTE}]


async def test_what_cant_be_written_is_kept_for_later() -> None:
    uses, store, _ = make()
    store.away = True
    uses.note(key("a"))
    await uses.flush()
    store.away = False
    await uses.flush()
    assert store.written == [{"a": MINUTE}]


async def test_it_writes_in_the_background() -> None:
    uses, store, _ = make()
    uses.start()
    uses.note(key("a"))
    await asyncio.wait_for(store.wrote.wait(), 30)
    await uses.stop()
    assert store.written == [{"a": MINUTE}]


async def test_stopping_writes_what_is_left() -> None:
    uses, store, _ = make()
    uses.note(key("a"))
    await uses.stop()
    assert store.written == [{"a": MINUTE}]
