"""Background work goes on whatever happens to a round of it, and ends when told to."""

import asyncio

import structlog
from structlog.testing import capture_logs

from redoma_kit.errors import StorageUnavailable
from redoma_kit.periodic import Periodic

FOR_EVER_S = 3_600.0
WAIT_S = 10.0


async def test_being_woken_brings_a_round_at_once() -> None:
    rounds = asyncio.Queue[None]()
    periodic = Periodic("test", FOR_EVER_S, lambda: rounds.put(None), structlog.get_logger())
    periodic.start()
    async with asyncio.timeout(WAIT_S):
        await rounds.get()
        periodic.wake()
        await rounds.get()
    await periodic.stop()


async def test_being_woken_in_a_round_brings_one_more() -> None:
    begun, go_on, rounds = asyncio.Event(), asyncio.Event(), asyncio.Queue[None]()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        await rounds.put(None)

    periodic = Periodic("test", FOR_EVER_S, work, structlog.get_logger())
    periodic.start()
    async with asyncio.timeout(WAIT_S):
        await begun.wait()
        periodic.wake()
        go_on.set()
        await rounds.get()
        await rounds.get()
    await periodic.stop()


async def test_a_round_that_fails_is_logged_and_followed_by_another() -> None:
    outcomes = [StorageUnavailable(), RuntimeError("a defect"), None]
    done = asyncio.Event()

    async def work() -> None:
        outcome = outcomes.pop(0)
        if outcome is None:
            done.set()
            await asyncio.Event().wait()
        else:
            raise outcome

    with capture_logs() as logs:
        periodic = Periodic("test", 0.0, work, structlog.get_logger())
        periodic.start()
        async with asyncio.timeout(WAIT_S):
            await done.wait()
        await periodic.stop()
    assert [entry["log_level"] for entry in logs] == ["warning", "error"]


async def test_stop_ends_a_round_that_hangs() -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    periodic = Periodic("test", FOR_EVER_S, work, structlog.get_logger())
    periodic.start()
    async with asyncio.timeout(WAIT_S):
        await begun.wait()
        await periodic.stop()
    assert ended.is_set()
