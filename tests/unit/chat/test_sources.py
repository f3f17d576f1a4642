"""What time and trouble do to the checks' cache and to the saving of an answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from redoma_chat.checkpoints import LEASE_US, RENEWAL_US, Checkpoints
from redoma_chat.checks.chain import BlockedPattern, ContentChecks
from redoma_chat.checks.source import FRESH_S, MAX_TENANTS, CheckSource
from redoma_chat.conversations import Message, MessageState
from redoma_chat.endings import RETRY_DELAYS_S, Endings
from redoma_chat.errors import ChecksUnavailable
from redoma_chat.inference import Delta, FinishReason, Role, Usage
from redoma_chat.metering.meter import Settlement
from redoma_chat.names import Owner
from redoma_chat.persistence import run_to_end
from redoma_chat.recording import Recording
from redoma_kit.errors import ResourceNotFound, StorageUnavailable

OWNER = Owner("acme", "tenants/acme/apiKeys/one")


class Tenants:
    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    async def content_checks(self) -> ContentChecks:
        self.asked += 1
        if self.fails:
            raise ChecksUnavailable()
        return ContentChecks(0, (BlockedPattern("x", masks=True),))


async def test_checks_are_asked_again_when_old_and_never_used_stale() -> None:
    now = [0.0]
    tenants = Tenants()
    model: Any = None
    source = CheckSource(tenants, model, lambda: now[0])
    first = await source.chain("acme")
    now[0] = FRESH_S - 0.1
    assert await source.chain("acme") is first
    now[0] = FRESH_S
    tenants.fails = True
    with pytest.raises(ChecksUnavailable):
        await source.chain("acme")
    tenants.fails = False
    assert await source.chain("acme") is not first
    assert tenants.asked == 3


async def test_checks_of_many_tenants_stay_within_the_bound() -> None:
    tenants = Tenants()
    model: Any = None
    source = CheckSource(tenants, model, lambda: 0.0)
    for index in range(MAX_TENANTS + 1):
        await source.chain(f"t{index}")
    await source.chain("t0")
    assert tenants.asked == MAX_TENANTS + 2
    await source.chain(f"t{MAX_TENANTS}")
    assert tenants.asked == MAX_TENANTS + 2


class Store:
    """Remembers what is saved; fails as often as `failures` says."""

    def __init__(self, failures: int = 0, exists: bool = True) -> None:
        self.saved: list[Message] = []
        self.failures = failures
        self.exists = exists
        self.checkpoints = 0
        self.renewed: list[tuple[list[str], int]] = []
        self.asked = asyncio.Event()
        self.has_saved = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def save_answer(self, owner: Owner, answer: Message, settlement: Settlement | None = None) -> bool:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable()
        self.saved.append(answer)
        self.has_saved.set()
        return self.exists

    async def renew_answers(self, answers: Sequence[tuple[Owner, str]], until_us: int) -> None:
        self.renewed.append(([message_id for _, message_id in answers], until_us))

    async def checkpoint_answers(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        self.asked.set()
        await self.go_on.wait()
        for owner, answer in answers:
            await self.save_answer(owner, answer)
        self.checkpoints += 1


def endings() -> Endings:
    return Endings(structlog.stdlib.get_logger(), interval_s=0.0)


def recording(store: Store) -> Recording:
    answer = Message("m", "c", "p", Role.ASSISTANT, "old ", MessageState.STREAMING, 0, 0, usage=Usage(5, 0, 5, 0))
    checkpoints = Checkpoints(store, lambda: 7, structlog.stdlib.get_logger(), interval_s=0.0)
    return Recording(store, checkpoints, endings(), OWNER, answer, lambda: 7)


async def test_answer_is_saved_although_the_store_was_away_for_a_moment() -> None:
    store = Store(failures=2)
    saved = await recording(store).finish(FinishReason.STOP)
    assert store.saved == [saved]
    assert (saved.state, saved.content) == (MessageState.COMPLETE, "old ")


async def test_end_that_could_not_be_saved_is_saved_when_the_store_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redoma_chat.endings.RETRY_DELAYS_S", (0.0,) * len(RETRY_DELAYS_S))
    store = Store(failures=len(RETRY_DELAYS_S) + 3)
    with pytest.raises(StorageUnavailable):
        await recording(store).finish(FinishReason.STOP)
    assert store.failures > 0
    async with asyncio.timeout(20):
        await store.has_saved.wait()
    assert [answer.state for answer in store.saved] == [MessageState.COMPLETE]


async def test_failed_checkpoint_does_not_hurt_the_answer() -> None:
    store = Store(failures=1)
    record = recording(store)
    record.begun()
    record.started("model", 3)
    record.append(Delta("x", "y", Usage(3, 0, 1, 0)))
    await asyncio.wait_for(store.asked.wait(), 20)
    record.append(Delta("z", "", Usage(3, 0, 2, 0)))
    saved = await record.finish(FinishReason.CANCELLED)
    assert store.failures == 0
    assert (saved.content, saved.reasoning) == ("old xz", "y")
    assert saved.usage == Usage(8, 0, 7, 0)
    assert (saved.state, saved.finish_reason) == (MessageState.PARTIAL, FinishReason.CANCELLED)
    assert store.saved[-1] == saved


async def test_end_is_written_after_a_checkpoint_under_way() -> None:
    store = Store()
    store.go_on.clear()
    record = recording(store)
    record.begun()
    record.started("model", 3)
    record.append(Delta("x", "", Usage(3, 0, 1, 0)))
    await asyncio.wait_for(store.asked.wait(), 20)
    ending = asyncio.create_task(record.finish(FinishReason.STOP))
    for _ in range(5):
        await asyncio.sleep(0)
    assert store.saved == []
    store.go_on.set()
    saved = await ending
    assert [answer.state for answer in store.saved] == [MessageState.STREAMING, MessageState.COMPLETE]
    assert store.saved[-1] == saved


async def test_answers_are_saved_together_and_only_when_they_have_grown() -> None:
    store = Store()
    checkpoints = Checkpoints(store, lambda: 7, structlog.stdlib.get_logger(), interval_s=0.0)
    store.go_on.clear()
    answers = [Message(str(n), "c", "p", Role.ASSISTANT, "", MessageState.STREAMING, 0, 0) for n in range(3)]
    records = [Recording(store, checkpoints, endings(), OWNER, answer, lambda: 7) for answer in answers]
    for record in records:
        record.begun()
        record.started("model", 1)
    for record in records[:2]:
        record.append(Delta("x", "", Usage(1, 0, 1, 0)))
    await asyncio.wait_for(store.asked.wait(), 20)
    store.go_on.set()
    for record in reversed(records):
        await record.finish(FinishReason.STOP)
    assert sorted(answer.id for answer in store.saved[:2]) == ["0", "1"]
    assert [answer.id for answer in store.saved[2:]] == ["2", "1", "0"]
    assert store.checkpoints == 1


async def test_answer_that_waits_for_its_place_stays_this_processes() -> None:
    store = Store()
    clock = iter(range(0, 10**9, RENEWAL_US))
    checkpoints = Checkpoints(store, lambda: next(clock), structlog.stdlib.get_logger(), interval_s=0.0)
    answer = Message("m", "c", "p", Role.ASSISTANT, "", MessageState.STREAMING, 0, 0)
    record = Recording(store, checkpoints, endings(), OWNER, answer, lambda: 7)
    record.begun()
    async with asyncio.timeout(20):
        while len(store.renewed) < 2:  # noqa: ASYNC110 (the loop's own turns are waited for)
            await asyncio.sleep(0)
    await record.undone()
    assert store.renewed[0] == (["m"], LEASE_US + RENEWAL_US)
    assert store.renewed[1][1] - store.renewed[0][1] == RENEWAL_US


async def test_answer_of_a_deleted_conversation_is_not_found() -> None:
    with pytest.raises(ResourceNotFound):
        await recording(Store(exists=False)).finish(FinishReason.STOP)


async def test_cancelled_caller_waits_for_work_that_must_end() -> None:
    release, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await release.wait()
        ended.set()

    task = asyncio.create_task(run_to_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_fails_tells_its_caller() -> None:
    async def work() -> None:
        raise StorageUnavailable

    with pytest.raises(StorageUnavailable):
        await run_to_end(work())
