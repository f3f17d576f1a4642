"""What comes together for one tenant shares a transaction, and fails together only where it must."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from redoma_kit.errors import StorageUnavailable
from redoma_tenant.meter.account import Account, TenantTerms
from redoma_tenant.meter.prices import PriceList
from redoma_tenant.meter.queue import AccountQueue, Operation

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Accounts:
    """Does operations when it is let, and keeps how many it did at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.is_let = asyncio.Event()
        self.is_away = False

    async def work(self, tenant: str, now: datetime, operations: Sequence[Operation[Any]]) -> Account:
        """Plays the store."""
        self.batches.append(len(operations))
        await self.is_let.wait()
        if self.is_away:
            raise StorageUnavailable()
        account = Account(tenant, now, TenantTerms(), PriceList(), {})
        for operation in operations:
            operation.on(account)
        return account


def operation(value: object) -> Operation[object]:
    """Gives an operation with an outcome, or one that fails."""

    def act(account: Account) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    return Operation(act, frozenset())


async def begun(queue: AccountQueue, values: Sequence[object], tenant: str = "acme") -> "list[asyncio.Task[object]]":
    """Begins operations and lets them get into the queue."""
    tasks = [asyncio.create_task(queue.do(tenant, operation(value))) for value in values]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


@pytest.fixture
def accounts() -> Accounts:
    """A store that waits."""
    return Accounts()


@pytest.fixture
def queue(accounts: Accounts) -> AccountQueue:
    """A queue before it."""
    return AccountQueue(accounts, lambda: NOW, lambda _: None)


async def test_what_waits_is_done_together(accounts: Accounts, queue: AccountQueue) -> None:
    first = await begun(queue, ["a"])
    others = await begun(queue, ["b", "c", "d"])
    accounts.is_let.set()
    assert await asyncio.gather(*first, *others) == ["a", "b", "c", "d"]
    assert accounts.batches == [1, 3]
    await queue.idle()


async def test_tenants_do_not_wait_for_each_other(accounts: Accounts, queue: AccountQueue) -> None:
    tasks = await begun(queue, ["a"]) + await begun(queue, ["b"], "globex")
    assert accounts.batches == [1, 1]
    accounts.is_let.set()
    assert await asyncio.gather(*tasks) == ["a", "b"]


async def test_a_defect_of_one_is_not_the_others(accounts: Accounts, queue: AccountQueue) -> None:
    accounts.is_let.set()
    tasks = await begun(queue, ["a", ValueError("defect"), "b"])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert isinstance(outcomes[1], ValueError)


async def test_all_are_told_when_the_store_is_away_and_the_next_try_anew(
    accounts: Accounts, queue: AccountQueue
) -> None:
    accounts.is_let.set()
    accounts.is_away = True
    outcomes = await asyncio.gather(*await begun(queue, ["a", "b"]), return_exceptions=True)
    assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
    accounts.is_away = False
    assert await asyncio.gather(*await begun(queue, ["c"])) == ["c"]


async def test_who_gave_up_waiting_is_left_out(accounts: Accounts, queue: AccountQueue) -> None:
    first = await begun(queue, ["a"])
    given_up, other = await begun(queue, ["b", "c"])
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    accounts.is_let.set()
    assert await asyncio.gather(*first, other) == ["a", "c"]
    assert accounts.batches == [1, 1]
