"""Lets what comes together for one tenant share a transaction, so that of fifty calls at once none waits for fifty."""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from redoma_kit.errors import DomainError
from redoma_tenant.meter.account import Account
from redoma_tenant.meter.reservation import Caller

MOST_AT_ONCE = 256

T = TypeVar("T")


class UnknownTenant(Exception):
    """There is no such tenant."""


@dataclass(slots=True, eq=False)
class Operation(Generic[T]):
    """Something to do with an account. `act` may be done again after a transaction that failed.

    Attributes:
        act: What to do.
        token_ids: The calls that it is about.
        callers: Callers of calls that are not kept yet.
        may_have_ended: Whether the ledger is asked about calls that are not kept.
        needs_prices: Whether prices matter.
    """

    act: Callable[[Account], T]
    token_ids: frozenset[str]
    callers: tuple[Caller, ...] = ()
    may_have_ended: bool = False
    needs_prices: bool = True
    outcome: T | None = None

    def on(self, account: Account) -> None:
        """Does it."""
        self.outcome = self.act(account)


class AccountStore(Protocol):
    """Where accounts are kept."""

    async def work(self, tenant: str, now: datetime, operations: Sequence[Operation[Any]]) -> Account:
        """Does the operations on a tenant's account in one transaction, in their order, and gives it as it is then.

        Raises:
            UnknownTenant: There is no such tenant.
            StorageUnavailable: The database does not answer; what was done may be there.
        """
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    operation: Operation[Any]
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class AccountQueue:
    """Does operations, a tenant's one transaction after the other. `watch` sees each account that was written."""

    def __init__(self, store: AccountStore, now: Callable[[], datetime], watch: Callable[[Account], None]) -> None:
        self._store = store
        self._now = now
        self._watch = watch
        self._waiting: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, tenant: str, operation: Operation[T]) -> T:
        """Does an operation on a tenant's account and gives its outcome.

        Raises:
            UnknownTenant: There is no such tenant.
            StorageUnavailable: The database does not answer; what was done may be there.
        """
        waiting = _Waiting(operation)
        queue = self._waiting.get(tenant)
        if queue is None:
            self._waiting[tenant] = [waiting]
            # What it logs is of no single call.
            task = asyncio.create_task(self._serve(tenant), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(waiting)
        await waiting.done
        outcome: T = operation.outcome  # type: ignore[assignment]
        return outcome

    async def idle(self) -> None:
        """Returns when nothing is being done."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, tenant: str) -> None:
        while queue := self._waiting[tenant]:
            batch, self._waiting[tenant] = queue[:MOST_AT_ONCE], queue[MOST_AT_ONCE:]
            await self._work(tenant, [one for one in batch if not one.done.done()])
        del self._waiting[tenant]

    async def _work(self, tenant: str, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            account = await self._store.work(tenant, self._now(), [one.operation for one in batch])
            self._watch(account)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, DomainError | UnknownTenant):
                for one in batch:
                    one.end(error)
                return
            # A defect of one of them is not to be the others'.
            for one in batch:
                await self._work(tenant, [one])
            return
        except BaseException:
            for one in batch:
                one.done.cancel()
            raise
        for one in batch:
            one.end(None)
