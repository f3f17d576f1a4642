"""No operation is run by two processes at once, and none is left behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from redoma_kit.database import Database
from redoma_provisioner.errors import ERRORS, StateConflict
from redoma_provisioner.operations import runner as module
from redoma_provisioner.operations.operation import Operation, OperationState, Step
from redoma_provisioner.operations.operations import Notices, Operations
from redoma_provisioner.operations.progress import Progress
from redoma_provisioner.operations.runner import OperationRunner
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.operations import SqlOperationStore
from tests.fakes.memory_network import SetClock
from tests.fakes.postgres import BACKENDS, PostgresServer

KIND, TARGET = "Copy", "sites/hospital-a"
STEPS = (Step("Copy", unit="bytes"), Step("Verify"), Step("Publish", cancellable=False))
BOUND_S = 20.0


@dataclass(slots=True)
class Copy:
    """An executor that waits before each step until it may go on."""

    resumable: bool = True
    gates: dict[int, asyncio.Event] = field(default_factory=dict)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[bool] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def run(self, operation: Operation, progress: Progress) -> None:
        """See Executor."""
        self.runs.append(progress.was_begun)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for number in range(len(operation.steps)):
                await progress.step(number)
                self.begun.set()
                if number in self.gates:
                    await self.gates[number].wait()
                await progress.count(number + 1, 3)
        finally:
            self.at_once -= 1


@dataclass(slots=True)
class Process:
    """One process of the service."""

    store: SqlOperationStore
    executor: Copy
    clock: SetClock
    notices: Notices = field(default_factory=Notices)
    runner: OperationRunner = field(init=False)
    operations: Operations = field(init=False)

    def __post_init__(self) -> None:
        log: structlog.stdlib.BoundLogger = structlog.get_logger()
        executors = {KIND: self.executor}
        self.runner = OperationRunner(self.store, executors, self.notices, ERRORS, self.clock, log)
        self.operations = Operations(self.store, self.notices, self.runner.wake, self.clock)

    async def begin(self, target: str = TARGET) -> Operation:
        """Begins an operation."""
        return await self.operations.begin(KIND, target, {"from": "here"}, STEPS, "platform/apiKeys/x")

    async def end_of(self, operation: Operation) -> Operation:
        """Gives an operation as it ends."""
        async with asyncio.timeout(BOUND_S):
            async for found in self.operations.watch(operation.id):
                operation = found
        return operation

    def kill(self) -> None:
        """Ends it as SIGKILL does: nothing is given up."""
        for task in self.runner._running:
            task.cancel()
        for periodic in (self.runner._look, self.runner._prune):
            if periodic._task is not None:
                periodic._task.cancel()


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/provisioner.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlOperationStore]:
    """An empty store."""
    database = Database(url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    yield SqlOperationStore(database)
    await database.close()


async def test_steps_are_kept_as_they_go(store: SqlOperationStore) -> None:
    gate = asyncio.Event()
    process = Process(store, Copy(gates={1: gate}), SetClock())
    process.runner.start()
    begun = await process.begin()
    async with asyncio.timeout(BOUND_S):
        async for found in process.operations.watch(begun.id):
            if found.steps[1].state is OperationState.RUNNING:
                break
    assert [step.state.value for step in found.steps] == ["SUCCEEDED", "RUNNING", "PENDING"]
    assert (found.steps[0].done, found.steps[0].total, found.steps[0].unit) == (1, 3, "bytes")
    gate.set()
    ended = await process.end_of(begun)
    assert ended.state is OperationState.SUCCEEDED
    await process.runner.stop()


async def test_two_processes_never_run_the_same(store: SqlOperationStore) -> None:
    executor = Copy()
    processes = [Process(store, executor, SetClock()) for _ in range(3)]
    for process in processes:
        process.runner.start()
    begun = [await processes[0].begin(f"sites/s{number}") for number in range(6)]
    for process in processes:
        process.runner.wake()
    for operation in begun:
        assert (await processes[0].end_of(operation)).state is OperationState.SUCCEEDED
    assert executor.runs == [False] * 6
    for process in processes:
        await process.runner.stop()


async def test_a_killed_process_s_work_waits_for_its_lease_and_then_goes_on(store: SqlOperationStore) -> None:
    clock, executor = SetClock(), Copy(gates={0: asyncio.Event()})
    dead = Process(store, executor, clock)
    dead.runner.start()
    begun = await dead.begin()
    await asyncio.wait_for(executor.begun.wait(), BOUND_S)
    dead.kill()
    executor.gates.clear()
    other = Process(store, executor, clock)
    await other.runner._take()
    assert executor.runs == [False], "its lease has not lapsed"
    clock.time += module.LEASE + timedelta(seconds=1)
    other.runner.start()
    assert (await other.end_of(begun)).state is OperationState.SUCCEEDED
    assert executor.runs == [False, True]
    await other.runner.stop()


async def test_what_can_not_be_resumed_says_so(store: SqlOperationStore) -> None:
    clock, executor = SetClock(), Copy(resumable=False, gates={0: asyncio.Event()})
    former = Process(store, executor, clock)
    former.runner.start()
    begun = await former.begin()
    await asyncio.wait_for(executor.begun.wait(), BOUND_S)
    await former.runner.stop()
    process = Process(store, executor, clock)
    process.runner.start()
    ended = await process.end_of(begun)
    assert (ended.state, ended.error_reason) == (OperationState.FAILED, "SHUTTING_DOWN")
    assert "ask for it again" in ended.error_message
    assert executor.runs == [False]
    await process.runner.stop()


async def test_who_lost_the_lease_writes_nothing_more(store: SqlOperationStore) -> None:
    clock, gate = SetClock(), asyncio.Event()
    slow = Process(store, Copy(gates={0: gate}), clock)
    slow.runner.start()
    begun = await slow.begin()
    await asyncio.wait_for(slow.executor.begun.wait(), BOUND_S)
    clock.time += module.LEASE + timedelta(seconds=1)
    quick = Process(store, Copy(), clock)
    quick.runner.start()
    ended = await quick.end_of(begun)
    gate.set()
    async with asyncio.timeout(BOUND_S):
        while slow.runner._running:
            await asyncio.wait(slow.runner._running)
    assert await store.find_operation(begun.id) == ended
    for process in (slow, quick):
        await process.runner.stop()


async def test_what_waits_is_cancelled_at_once(store: SqlOperationStore) -> None:
    process = Process(store, Copy(), SetClock())
    begun = await process.begin()
    cancelled = await process.operations.cancel(begun.id)
    assert cancelled.state is OperationState.CANCELLED and cancelled.end_time is not None
    await process.runner._take()
    assert process.executor.runs == []
    await process.runner.stop()


async def test_past_the_point_of_no_return_nothing_is_cancelled(store: SqlOperationStore) -> None:
    gate = asyncio.Event()
    process = Process(store, Copy(gates={2: gate}), SetClock())
    process.runner.start()
    begun = await process.begin()
    async with asyncio.timeout(BOUND_S):
        async for found in process.operations.watch(begun.id):
            if found.steps[2].state is OperationState.RUNNING:
                break
    with pytest.raises(StateConflict, match="past the point"):
        await process.operations.cancel(begun.id)
    gate.set()
    assert (await process.end_of(begun)).state is OperationState.SUCCEEDED
    await process.runner.stop()


async def test_no_more_than_a_few_run_side_by_side(store: SqlOperationStore) -> None:
    gate = asyncio.Event()
    process = Process(store, Copy(gates={0: gate}), SetClock())
    begun = [await process.begin(f"sites/s{number}") for number in range(7)]
    await process.runner._take()
    await asyncio.wait_for(process.executor.begun.wait(), BOUND_S)
    assert len(process.runner._running) == module.MOST_AT_ONCE
    gate.set()
    process.runner.start()
    for operation in begun:
        await process.end_of(operation)
    assert 1 < process.executor.most_at_once <= module.MOST_AT_ONCE
    await process.runner.stop()


async def test_what_ended_is_forgotten_after_a_month_and_nothing_else(store: SqlOperationStore) -> None:
    clock = SetClock()
    process = Process(store, Copy(), clock)
    process.runner.start()
    ended = await process.end_of(await process.begin())
    await process.runner.stop()
    waiting = await process.begin()
    clock.time += module.KEPT
    await process.runner._prune_old()
    assert await store.find_operation(ended.id) == ended
    clock.time += timedelta(seconds=1)
    await process.runner._prune_old()
    assert await store.find_operation(ended.id) is None
    assert await store.find_operation(waiting.id) is not None
