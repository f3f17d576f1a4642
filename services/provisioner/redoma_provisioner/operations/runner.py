"""Runs operations, one after the other of those that wait, several side by side.

Which process runs one is in the database: a lease, renewed while it runs. When a process dies, its leases lapse, and
another one, or the same after its restart, goes on where it was, or says that it can't.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from redoma_kit.errors import DomainError, ErrorTable, StorageUnavailable, failure_of
from redoma_kit.periodic import Periodic
from redoma_provisioner.operations.operation import Operation, OperationState
from redoma_provisioner.operations.operations import Notices
from redoma_provisioner.operations.progress import Executor, LeaseLost, OperationCancelled, Progress, StepStore

LEASE = timedelta(seconds=15)
RENEWAL_S = 4.0
LOOK_INTERVAL_S = 2.0
MOST_AT_ONCE = 4
KEPT = timedelta(days=30)
PRUNE_INTERVAL_S = 3_600.0


class RunnerStore(StepStore, Protocol):
    """Where operations are kept, as the one who runs them needs it."""

    async def claim(
        self, runner: str, kinds: Sequence[str], now: datetime, until: datetime
    ) -> tuple[Operation, bool] | None:
        """Takes the oldest operation that waits, or whose runner's lease has lapsed; tells whether it had begun."""
        ...

    async def renew(self, operation: str, runner: str, until: datetime) -> bool | None:
        """Keeps a lease, and tells whether the operation is to end; None: it is another's by now."""
        ...

    async def end(self, operation: Operation, runner: str) -> bool:
        """Keeps how an operation ended; False: it is another's by now."""
        ...

    async def release(self, runner: str) -> None:
        """Gives up all leases of a runner, so that others need not wait."""
        ...

    async def prune_operations(self, before: datetime) -> None:
        """Forgets those that ended before."""
        ...


class OperationRunner:
    """Runs the operations of the kinds that `executors` names."""

    def __init__(
        self,
        store: RunnerStore,
        executors: Mapping[str, Executor],
        notices: Notices,
        errors: ErrorTable,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._executors = executors
        self._notices = notices
        self._errors = errors
        self._now = now
        self._log = log
        self._runner = uuid.uuid4().hex
        self._running: set[asyncio.Task[None]] = set()
        self._look = Periodic("operations", LOOK_INTERVAL_S, self._take, log)
        self._prune = Periodic("operations, old ones", PRUNE_INTERVAL_S, self._prune_old, log)

    def start(self) -> None:
        """Begins, also with what a former process left."""
        self._look.start()
        self._prune.start()

    async def stop(self) -> None:
        """Ends what runs where it is, for another process to go on with."""
        await self._look.stop()
        await self._prune.stop()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        try:
            await self._store.release(self._runner)
        except StorageUnavailable:
            self._log.warning("the leases of operations lapse by themselves")

    def wake(self) -> None:
        """Says that there is something to do."""
        self._look.wake()

    async def _take(self) -> None:
        while len(self._running) < MOST_AT_ONCE:
            now = self._now()
            claimed = await self._store.claim(self._runner, tuple(self._executors), now, now + LEASE)
            if claimed is None:
                return
            self._notices.tell()
            task = asyncio.create_task(self._run(*claimed), name=f"operation {claimed[0].kind}")
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._look.wake()

    async def _run(self, operation: Operation, was_begun: bool) -> None:
        progress = Progress(operation, self._runner, self._store, self._notices, was_begun)
        if was_begun and not self._executors[operation.kind].resumable:
            message = "The provisioner stopped in the midst of it; ask for it again."
            await self._end(operation, progress, OperationState.FAILED, "SHUTTING_DOWN", message)
            return
        work = asyncio.ensure_future(self._executors[operation.kind].run(operation, progress))
        renewing = asyncio.ensure_future(self._renew(operation, work))
        try:
            ended = await self._outcome(operation, work)
        except (asyncio.CancelledError, LeaseLost):
            # The service stops, or another process runs it by now.
            self._log.warning("an operation goes on elsewhere", operation=operation.name)
            return
        finally:
            renewing.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await self._end(operation, progress, *ended)

    async def _outcome(self, operation: Operation, work: "asyncio.Future[None]") -> tuple[OperationState, str, str]:
        try:
            await work
        except OperationCancelled:
            return OperationState.CANCELLED, "", ""
        except DomainError as error:
            failure = failure_of(error, self._errors)
            return OperationState.FAILED, failure.reason, failure.message
        except LeaseLost:
            raise
        except Exception:
            self._log.exception("an operation failed", operation=operation.name, kind=operation.kind)
            return OperationState.FAILED, "INTERNAL", f"Something went wrong; the log has it under {operation.name}."
        return OperationState.SUCCEEDED, "", ""

    async def _renew(self, operation: Operation, work: "asyncio.Future[None]") -> None:
        while True:
            await asyncio.sleep(RENEWAL_S)
            try:
                kept = await self._store.renew(operation.id, self._runner, self._now() + LEASE)
            except StorageUnavailable:
                continue
            if kept is None:
                work.cancel()
                return

    async def _end(
        self, operation: Operation, progress: Progress, state: OperationState, reason: str, message: str
    ) -> None:
        ended = replace(
            operation,
            steps=replace(operation, steps=progress.steps).ended_steps(state),
            state=state,
            error_reason=reason,
            error_message=message,
            end_time=self._now(),
        )
        while True:
            try:
                if not await self._store.end(ended, self._runner):
                    self._log.warning("another process runs the operation", operation=operation.name)
                break
            except StorageUnavailable:
                # Whoever takes it over would do it again.
                await asyncio.sleep(LOOK_INTERVAL_S)
        self._log.info(
            "operation ended", operation=operation.name, kind=operation.kind, state=state.value, reason=reason
        )
        self._notices.tell()

    async def _prune_old(self) -> None:
        await self._store.prune_operations(self._now() - KEPT)
