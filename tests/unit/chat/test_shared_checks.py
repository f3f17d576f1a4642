"""Many calls of one tenant at once ask for its checks once, and one that leaves does not spoil the others'."""

import asyncio
from typing import Any

import pytest

from redoma_chat.checks.chain import Chain, ContentChecks
from redoma_chat.checks.source import CheckSource
from redoma_chat.errors import ChecksUnavailable

CALLERS = 400


class HeldTenants:
    """Answers when it is let go."""

    def __init__(self, *, fails: bool = False) -> None:
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self._fails = fails

    async def content_checks(self) -> ContentChecks:
        self.asked += 1
        self.was_asked.set()
        await self.go_on.wait()
        if self._fails:
            raise ChecksUnavailable()
        return ContentChecks(0, ())


def source_of(tenants: HeldTenants) -> CheckSource:
    model: Any = None
    return CheckSource(tenants, model, lambda: 0.0)


async def waiting_callers(source: CheckSource, tenants: HeldTenants) -> list[asyncio.Task[Chain]]:
    callers = [asyncio.create_task(source.chain("acme")) for _ in range(CALLERS)]
    await tenants.was_asked.wait()
    return callers


async def test_a_burst_asks_once_and_the_one_that_asked_may_leave() -> None:
    tenants = HeldTenants()
    callers = await waiting_callers(source_of(tenants), tenants)
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    tenants.go_on.set()
    chains = await asyncio.gather(*callers[1:])
    assert tenants.asked == 1
    assert all(chain is chains[0] for chain in chains)


async def test_a_failure_reaches_all_who_wait_and_the_next_asks_again() -> None:
    tenants = HeldTenants(fails=True)
    source = source_of(tenants)
    callers = await waiting_callers(source, tenants)
    tenants.go_on.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, ChecksUnavailable) for result in results)
    with pytest.raises(ChecksUnavailable):
        await source.chain("acme")
    assert tenants.asked == 2
