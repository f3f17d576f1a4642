"""The replicas of models, as the provisioner lists them: each has caches to purge, and a journal to ask."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import structlog

RETRY_S = 1.0


class Replicas(Protocol):
    """Knows the replicas."""

    @property
    def known(self) -> tuple[str, ...] | None:
        """Their routing keys; None before the provisioner has said for the first time which there are."""


class ReplicaFeed(Protocol):
    """The provisioner."""

    def lists(self) -> AsyncGenerator[tuple[str, ...], None]:
        """Gives the routing keys of all replicas at once, then again whenever they change; ends when it goes away."""


class ReplicaDirectory:
    """Follows the list. While the provisioner is away the last one stands: its replicas may still hold something."""

    def __init__(self, feed: ReplicaFeed, log: structlog.stdlib.BoundLogger, retry_s: float = RETRY_S) -> None:
        self._feed = feed
        self._log = log
        self._retry_s = retry_s
        self._known: tuple[str, ...] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def known(self) -> tuple[str, ...] | None:
        """Their routing keys; None before the provisioner has said for the first time which there are."""
        return self._known

    def start(self) -> None:
        """Begins to follow."""
        self._task = asyncio.create_task(self._follow(), name="replicas", context=contextvars.Context())

    async def stop(self) -> None:
        """Follows no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        is_away = False
        while True:
            was_away, is_away = is_away, not await self._read()
            if is_away and not was_away:
                self._log.warning("the provisioner is away; the last list of the models' replicas stands")
            await asyncio.sleep(self._retry_s)

    async def _read(self) -> bool:
        """Takes lists for as long as they come, and says whether there was any."""
        has_come = False
        try:
            async with aclosing(self._feed.lists()) as lists:
                async for listed in lists:
                    has_come = True
                    self._take(listed)
        except Exception:
            self._log.exception("the list of the models' replicas can't be read")
        return has_come

    def _take(self, listed: tuple[str, ...]) -> None:
        if listed != self._known:
            self._log.info("replicas of models", replicas=len(listed))
        self._known = listed
