"""What does operations, and what it tells meanwhile."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from redoma_provisioner.operations.operation import Operation, OperationState, Step
from redoma_provisioner.operations.operations import Notices


class OperationCancelled(Exception):
    """The operation was asked to end; an executor undoes what it must and lets it pass."""


class LeaseLost(Exception):
    """Another process runs the operation; an executor lets it pass and touches nothing any more."""


class StepStore(Protocol):
    """Where the steps of operations are kept."""

    async def keep_steps(
        self, operation: str, runner: str, steps: Sequence[Step], unless_cancelled: bool
    ) -> bool | None:
        """Keeps the steps; False if it is to end and `unless_cancelled`; None: it is another's by now."""
        ...


class Progress:
    """What an executor tells of its work, and asks."""

    __slots__ = ("_notices", "_operation", "_runner", "_steps", "_store", "_was_begun")

    def __init__(self, operation: Operation, runner: str, store: StepStore, notices: Notices, was_begun: bool) -> None:
        self._operation = operation
        self._runner = runner
        self._store = store
        self._notices = notices
        self._was_begun = was_begun
        self._steps = operation.steps

    @property
    def was_begun(self) -> bool:
        """Whether another run of it had begun before: what it did may be half done."""
        return self._was_begun

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps as they are."""
        return self._steps

    async def step(self, number: int) -> None:
        """Begins a step, the first being 0; a safe point.

        Raises:
            OperationCancelled: It was asked to end.
            LeaseLost: Another process runs it.
        """
        steps = replace(self._operation, steps=self._steps).at_step(number)
        await self._keep(steps, unless_cancelled=True)

    async def count(self, done: int, total: int) -> None:
        """Says how far the step is that runs. Tell it a few times a second at most.

        Raises:
            LeaseLost: Another process runs it.
        """
        steps = tuple(
            replace(one, done=done, total=total) if one.state is OperationState.RUNNING else one for one in self._steps
        )
        await self._keep(steps, unless_cancelled=False)

    async def _keep(self, steps: tuple[Step, ...], unless_cancelled: bool) -> None:
        kept = await self._store.keep_steps(self._operation.id, self._runner, steps, unless_cancelled)
        if kept is None:
            raise LeaseLost(self._operation.name)
        if not kept:
            raise OperationCancelled(self._operation.name)
        self._steps = steps
        self._notices.tell()


class Executor(Protocol):
    """What does the operations of one kind."""

    @property
    def resumable(self) -> bool:
        """Whether `run` can go on after a process died in the midst of it."""
        ...

    async def run(self, operation: Operation, progress: Progress) -> None:
        """Does it. Raises a DomainError with which it fails, or what `progress` raises."""
        ...
