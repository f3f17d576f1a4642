"""The list of models' replicas: unknown until it was told, kept while nobody tells, followed when it changes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from redoma_tenant.replicas import ReplicaDirectory

WAIT_S = 20.0
Told = tuple[str, ...] | Exception | None


class Feed:
    """Gives what a test puts in: a list, a defect, or None for a provisioner that goes away."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Told] = asyncio.Queue()

    async def lists(self) -> AsyncGenerator[tuple[str, ...], None]:
        while True:
            told = await self._told.get()
            try:
                if told is None:
                    return
                if isinstance(told, Exception):
                    raise told
                yield told
            finally:
                self._told.task_done()

    async def tell(self, *all_told: Told) -> None:
        """Tells, and waits until all was taken."""
        for told in all_told:
            await self._told.put(told)
        async with asyncio.timeout(WAIT_S):
            await self._told.join()


@asynccontextmanager
async def following(feed: Feed) -> AsyncIterator[ReplicaDirectory]:
    directory = ReplicaDirectory(feed, structlog.get_logger(), retry_s=0)
    directory.start()
    try:
        yield directory
    finally:
        await directory.stop()


async def test_nothing_is_known_before_the_provisioner_has_spoken() -> None:
    async with following(feed := Feed()) as directory:
        assert directory.known is None
        await feed.tell(None, None)
        assert directory.known is None
        await feed.tell(())
        assert directory.known == ()


async def test_the_list_is_followed() -> None:
    async with following(feed := Feed()) as directory:
        await feed.tell(("a",), ("a", "b"))
        assert directory.known == ("a", "b")
        await feed.tell(())
        assert directory.known == ()


@pytest.mark.parametrize("trouble", [None, RuntimeError("a defect")])
async def test_the_last_list_stands_while_nobody_tells_another(trouble: Told) -> None:
    async with following(feed := Feed()) as directory:
        await feed.tell(("a", "b"), trouble)
        assert directory.known == ("a", "b")
        await feed.tell(trouble, ("c",))
        assert directory.known == ("c",)


async def test_a_provisioner_that_stays_away_is_told_once_and_a_stream_that_ends_not_at_all() -> None:
    with capture_logs() as logs:
        async with following(feed := Feed()) as directory:
            await feed.tell(("a",), None)
            await feed.tell(("a",), None)
            assert not [entry for entry in logs if "away" in entry["event"]]
            await feed.tell(None, None, None)
            assert directory.known == ("a",)
    assert len([entry for entry in logs if "away" in entry["event"]]) == 1
