"""Saves all running answers together, about once a second, so that many of them cost one write and not many.

Each is this process's for as long as its lease is renewed. Another process ends what nobody renews.
"""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from redoma_chat.conversations import Message
from redoma_chat.names import Owner
from redoma_kit.errors import StorageUnavailable

CHECKPOINT_INTERVAL_S = 1.0
# How long an answer stays a process's without being renewed, and how often it is.
LEASE_US = 6_000_000
RENEWAL_US = 1_500_000


class CheckpointStore(Protocol):
    """Where answers are kept while they stream."""

    async def checkpoint_answers(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        """Saves what has come of answers so far, of those that are STREAMING still."""
        ...

    async def renew_answers(self, answers: Sequence[tuple[Owner, str]], until_us: int) -> None:
        """Says of STREAMING answers, by their ids, until when they are this process's."""
        ...


class Unsaved(Protocol):
    """An answer that is being recorded."""

    @property
    def place(self) -> tuple[Owner, str]:
        """Whose it is, and its id."""
        ...

    def unsaved(self) -> tuple[Owner, Message] | None:
        """Gives the answer as it is if it has grown since this was last asked."""
        ...


class Checkpoints:
    """Looks after the answers that stream now. A slow disk makes checkpoints rarer and never holds a stream up."""

    def __init__(
        self,
        store: CheckpointStore,
        now_us: Callable[[], int],
        log: structlog.stdlib.BoundLogger,
        interval_s: float = CHECKPOINT_INTERVAL_S,
    ) -> None:
        self._store = store
        self._now_us = now_us
        self._log = log
        self._interval_s = interval_s
        self._answers: set[Unsaved] = set()
        # Held while a checkpoint is written, so that what ends an answer is written after it.
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def add(self, answer: Unsaved) -> None:
        """Saves the answer now and then, from now on."""
        self._answers.add(answer)
        if self._task is None or self._task.done():
            # Its log lines are none of the call that happened to start it.
            self._task = asyncio.create_task(self._run(), name="checkpoints", context=contextvars.Context())

    async def remove(self, answer: Unsaved) -> None:
        """Saves the answer no more; returns when no checkpoint of it is under way."""
        self._answers.discard(answer)
        async with self._writing:
            return

    async def _run(self) -> None:
        renewed_at_us = 0
        while self._answers:
            await asyncio.sleep(self._interval_s)
            async with self._writing:
                grown = [found for answer in self._answers if (found := answer.unsaved()) is not None]
                if grown:
                    await self._save(grown)
                now_us = self._now_us()
                if now_us - renewed_at_us >= RENEWAL_US:
                    renewed_at_us = now_us
                    await self._renew(now_us + LEASE_US)

    async def _save(self, answers: Sequence[tuple[Owner, Message]]) -> None:
        try:
            await self._store.checkpoint_answers(answers)
        except StorageUnavailable:
            self._log.warning("checkpoint skipped", answers=len(answers))

    async def _renew(self, until_us: int) -> None:
        try:
            await self._store.renew_answers([answer.place for answer in self._answers], until_us)
        except StorageUnavailable:
            self._log.warning("leases of answers not renewed", answers=len(self._answers))
