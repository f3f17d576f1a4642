"""Work that goes on after the call that asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum


class OperationState(Enum):
    """How far an operation or a step is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def has_ended(self) -> bool:
        """Whether it changes no more."""
        return self not in (OperationState.PENDING, OperationState.RUNNING)


@dataclass(frozen=True, slots=True)
class Step:
    """One part of an operation.

    Attributes:
        title: What it does, for people.
        state: How far it is.
        done: Units done.
        total: Units in all; 0 is not known.
        unit: What the units are; empty for a step without.
        cancellable: Whether the operation can still be cancelled while it is at this step.
    """

    title: str
    state: OperationState = OperationState.PENDING
    done: int = 0
    total: int = 0
    unit: str = ""
    cancellable: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """Work, how far it is, and what became of it.

    Attributes:
        id: Its id.
        kind: What it does, such as "RotateCertificates".
        target: The name of the resource it does it to.
        arguments: What its executor needs to begin, or to go on.
        state: How far it is.
        steps: Its parts, in order.
        error_reason: Why it failed, by a name of ErrorReason; empty otherwise.
        error_message: The same for people.
        creator: The principal that asked for it.
        create_time: When it was asked for.
        end_time: When it ended; None: it has not.
        cancel_requested: Whether someone asked it to end.
    """

    id: str
    kind: str
    target: str
    arguments: Mapping[str, str]
    state: OperationState
    steps: tuple[Step, ...]
    creator: str
    create_time: datetime
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None
    cancel_requested: bool = False

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"operations/{self.id}"

    @property
    def cancellable(self) -> bool:
        """Whether it can still be cancelled."""
        return all(step.cancellable for step in self.steps if step.state is not OperationState.PENDING)

    def at_step(self, number: int) -> tuple[Step, ...]:
        """Gives its steps as they are when the one of that number begins: those before it done, those after it not."""
        return tuple(
            replace(step, state=OperationState.SUCCEEDED)
            if index < number
            else replace(step, state=OperationState.RUNNING if index == number else OperationState.PENDING, done=0)
            for index, step in enumerate(self.steps)
        )

    def ended_steps(self, state: OperationState) -> tuple[Step, ...]:
        """Gives its steps as they are when it ends in `state`: what ran ends so too, and what waited never begins."""
        if state is OperationState.SUCCEEDED:
            return tuple(replace(step, state=state) for step in self.steps)
        return tuple(
            replace(step, state=state) if step.state is OperationState.RUNNING else step for step in self.steps
        )
