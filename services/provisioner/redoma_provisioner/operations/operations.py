"""What people do with operations."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import page_position, page_size, page_token
from redoma_provisioner.errors import StateConflict
from redoma_provisioner.operations.operation import Operation, OperationState, Step

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# How soon a watcher sees what another replica of this service wrote.
LOOK_S = 0.5


class OperationStore(Protocol):
    """Where operations are kept."""

    async def add_operation(self, operation: Operation) -> bool:
        """Adds an operation; False if one of the same kind and target has not ended."""
        ...

    async def find_operation(self, operation: str) -> Operation | None:
        """Gives one by id."""
        ...

    async def list_operations(self, target: str, after: tuple[datetime, str] | None, limit: int) -> Sequence[Operation]:
        """Gives at most `limit`, the newest first, of one target if it is not empty, after the time and id `after`."""
        ...

    async def request_cancel(self, operation: str, now: datetime) -> Operation | None:
        """Notes that one is to end, if it has not and can; one that waits ends at once. Gives it as it is then."""
        ...


class Notices:
    """Tells in this process that an operation is another."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Wakes all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, wait_s: float) -> None:
        """Waits for the next change, at most so long, in seconds."""
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class OperationPage:
    """Part of the list of operations; an empty token ends it."""

    operations: Sequence[Operation]
    next_page_token: str


class Operations:
    """Begins, shows and cancels operations. `wake` tells the runner that there is something to do."""

    __slots__ = ("_notices", "_now", "_store", "_wake")

    def __init__(
        self, store: OperationStore, notices: Notices, wake: Callable[[], None], now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._notices = notices
        self._wake = wake
        self._now = now

    async def begin(
        self, kind: str, target: str, arguments: Mapping[str, str], steps: Sequence[Step], creator: str
    ) -> Operation:
        """Begins an operation; of a kind, one at a time has a target.

        Raises:
            StateConflict: Another one of the same kind goes on there.
        """
        operation = Operation(
            id=uuid.uuid4().hex,
            kind=kind,
            target=target,
            arguments=arguments,
            state=OperationState.PENDING,
            steps=tuple(steps),
            creator=creator,
            create_time=self._now(),
        )
        if not await self._store.add_operation(operation):
            raise StateConflict(
                f"{kind} goes on for {target} already; `redoma operation list` shows it.", {"state": "RUNNING"}
            )
        self._wake()
        return operation

    async def get(self, operation: str) -> Operation:
        """Gives an operation.

        Raises:
            ResourceNotFound: There is none.
        """
        found = await self._store.find_operation(operation)
        if found is None:
            raise ResourceNotFound(f"operations/{operation}")
        return found

    async def list(self, target: str, size: int, token: str) -> OperationPage:
        """Gives a page of the operations, the newest first, of one target if it is not empty.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        limit = page_size(size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        same = ("operations", target)
        position = page_position(token, same, (int, str))
        after = None if position is None else (_time_of(int(position[0])), str(position[1]))
        found = await self._store.list_operations(target, after, limit + 1)
        if len(found) <= limit:
            return OperationPage(found, "")
        last = found[limit - 1]
        micros = (last.create_time - EPOCH) // MICROSECOND
        return OperationPage(found[:limit], page_token(same, (micros, last.id)))

    async def cancel(self, operation: str) -> Operation:
        """Asks an operation to end, and gives it as it is then; one that has ended stays as it is.

        Raises:
            ResourceNotFound: There is none.
            StateConflict: It is past the point where it can be undone.
        """
        found = await self._store.request_cancel(operation, self._now())
        if found is None:
            raise ResourceNotFound(f"operations/{operation}")
        if not found.state.has_ended and not found.cancel_requested:
            raise StateConflict(
                f"{found.name} is past the point where it can be undone; it ends by itself.", {"state": "RUNNING"}
            )
        self._notices.tell()
        self._wake()
        return found

    async def watch(self, operation: str) -> AsyncGenerator[Operation, None]:
        """Gives an operation as it is, then at each change, until it has ended.

        Raises:
            ResourceNotFound: There is none.
        """
        former = None
        while former is None or not former.state.has_ended:
            found = await self.get(operation)
            if found != former:
                yield found
                former = found
            else:
                await self._notices.wait(LOOK_S)


def _time_of(micros: int) -> datetime:
    try:
        return EPOCH + micros * MICROSECOND
    except OverflowError:
        raise InvalidField("page_token", "is out of range; begin again without it.") from None
