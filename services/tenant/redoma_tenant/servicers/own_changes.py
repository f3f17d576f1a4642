"""Sees that what a call changed counts here before its caller is told that it is done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import EDGE, Policy
from redoma_tenant.changes import ChangeFeed

# Longer than reading the feed takes; should it not be read in time, nothing that is cached counts either.
MAX_WAIT_S = 1.0
READING = ("Get", "List", "Export", "Verify")


class OwnChanges:
    """Waits, after a call that may change something, until the feed of changes was read again.

    So whoever revokes a key through this process can rely on its being refused by it from then on; other replicas
    follow within the second.
    """

    def __init__(self, policy: Policy, changes: ChangeFeed) -> None:
        self._changing = frozenset(
            method
            for method, rule in policy.items()
            if rule.identity and rule.peers & EDGE and not method.rpartition("/")[2].startswith(READING)
        )
        self._changes = changes

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        yield
        if call.method in self._changing:
            try:
                async with asyncio.timeout(MAX_WAIT_S):
                    await self._changes.caught_up()
            except TimeoutError:
                return
