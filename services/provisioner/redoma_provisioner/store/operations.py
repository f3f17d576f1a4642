"""Operations in SQL. Whoever changes one locks its row first, so that no lease and no cancellation is passed over."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_provisioner.operations.operation import Operation, OperationState, Step
from redoma_provisioner.store.schema import OPERATIONS, UtcDateTime

COLUMNS = OPERATIONS.c
PENDING, RUNNING, CANCELLED = (
    state.value for state in (OperationState.PENDING, OperationState.RUNNING, OperationState.CANCELLED)
)
NOT_ENDED = (PENDING, RUNNING)


class SqlOperationStore:
    """Keeps operations in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_operation(self, operation: Operation) -> bool:
        """Adds an operation; False if one of the same kind and target has not ended."""

        async def work(session: AsyncSession) -> bool:
            await _lock_target(session, operation)
            same = and_(COLUMNS.kind == operation.kind, COLUMNS.target == operation.target)
            goes_on = select(COLUMNS.id).where(same, COLUMNS.state.in_(NOT_ENDED)).exists()
            row = _row(operation)
            values = [literal(value, COLUMNS[name].type) for name, value in row.items()]
            added = insert(OPERATIONS).from_select(list(row), select(*values).where(~goes_on)).returning(COLUMNS.id)
            return await session.scalar(added) is not None

        return await self._database.run(PLATFORM, work)

    async def find_operation(self, operation: str) -> Operation | None:
        """Gives one by id."""
        async with self._database.transaction(PLATFORM) as session:
            return await _find(session, operation)

    async def list_operations(self, target: str, after: tuple[datetime, str] | None, limit: int) -> Sequence[Operation]:
        """Gives at most `limit`, the newest first, of one target if it is not empty, after the time and id `after`."""
        query = select(OPERATIONS).order_by(COLUMNS.create_time.desc(), COLUMNS.id.desc()).limit(limit)
        if target:
            query = query.where(COLUMNS.target == target)
        if after is not None:
            place = tuple_(literal(after[0], UtcDateTime), literal(after[1]))
            query = query.where(tuple_(COLUMNS.create_time, COLUMNS.id) < place)
        async with self._database.transaction(PLATFORM) as session:
            return [_operation(row) for row in (await session.execute(query)).mappings()]

    async def request_cancel(self, operation: str, now: datetime) -> Operation | None:
        """Notes that one is to end, if it has not and can; one that waits ends at once. Gives it as it is then."""

        async def work(session: AsyncSession) -> Operation | None:
            found = await _locked(session, COLUMNS.id == operation)
            if found is None or found.state.has_ended or not found.cancellable:
                return found
            values: dict[str, Any] = {"cancel_requested": True}
            if found.state is OperationState.PENDING:
                values |= {"state": CANCELLED, "end_time": now}
            await session.execute(update(OPERATIONS).where(COLUMNS.id == operation).values(values))
            return await _find(session, operation)

        return await self._database.run(PLATFORM, work)

    async def claim(
        self, runner: str, kinds: Sequence[str], now: datetime, until: datetime
    ) -> tuple[Operation, bool] | None:
        """Takes the oldest operation that waits, or whose runner's lease has lapsed; tells whether it had begun."""
        is_lapsed = or_(COLUMNS.lease_time.is_(None), COLUMNS.lease_time < now)
        is_free = and_(
            COLUMNS.kind.in_(kinds), or_(COLUMNS.state == PENDING, and_(COLUMNS.state == RUNNING, is_lapsed))
        )
        oldest = select(COLUMNS.id).where(is_free).order_by(COLUMNS.create_time, COLUMNS.id).limit(1)

        async def work(session: AsyncSession) -> tuple[Operation, bool] | None:
            wanted = await session.scalar(oldest)
            # Asked again with the lock in hand: another process may have been quicker.
            found = await _locked(session, and_(COLUMNS.id == wanted, is_free)) if wanted else None
            if found is None:
                return None
            values = {"state": RUNNING, "runner": runner, "lease_time": until}
            await session.execute(update(OPERATIONS).where(COLUMNS.id == found.id).values(values))
            taken = await _find(session, found.id)
            return None if taken is None else (taken, found.state is OperationState.RUNNING)

        return await self._database.run(PLATFORM, work)

    async def renew(self, operation: str, runner: str, until: datetime) -> bool | None:
        """Keeps a lease, and tells whether the operation is to end; None: it is another's by now."""
        statement = update(OPERATIONS).where(*_held(operation, runner)).values(lease_time=until)
        async with self._database.transaction(PLATFORM) as session:
            is_to_end: bool | None = await session.scalar(statement.returning(COLUMNS.cancel_requested))
            return is_to_end

    async def keep_steps(
        self, operation: str, runner: str, steps: Sequence[Step], unless_cancelled: bool
    ) -> bool | None:
        """Keeps the steps; False if it is to end and `unless_cancelled`; None: it is another's by now."""

        async def work(session: AsyncSession) -> bool | None:
            found = await _locked(session, and_(*_held(operation, runner)))
            if found is None:
                return None
            if found.cancel_requested and unless_cancelled:
                return False
            await session.execute(update(OPERATIONS).where(COLUMNS.id == operation).values(steps=_steps_row(steps)))
            return True

        return await self._database.run(PLATFORM, work)

    async def end(self, operation: Operation, runner: str) -> bool:
        """Keeps how an operation ended; False: it is another's by now."""
        values = {
            "state": operation.state.value,
            "steps": _steps_row(operation.steps),
            "error_reason": operation.error_reason,
            "error_message": operation.error_message,
            "end_time": operation.end_time,
            "lease_time": None,
        }
        statement = update(OPERATIONS).where(*_held(operation.id, runner)).values(values).returning(COLUMNS.id)
        async with self._database.transaction(PLATFORM) as session:
            return await session.scalar(statement) is not None

    async def release(self, runner: str) -> None:
        """Gives up all leases of a runner, so that others need not wait."""
        held = and_(COLUMNS.runner == runner, COLUMNS.state == RUNNING)
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(update(OPERATIONS).where(held).values(lease_time=None, runner=""))

    async def prune_operations(self, before: datetime) -> None:
        """Forgets those that ended before."""
        async with self._database.transaction(PLATFORM) as session:
            await session.execute(delete(OPERATIONS).where(COLUMNS.end_time < before))


def _held(operation: str, runner: str) -> tuple[ColumnElement[bool], ...]:
    return (COLUMNS.id == operation, COLUMNS.runner == runner, COLUMNS.state == RUNNING)


async def _lock_target(session: AsyncSession, operation: Operation) -> None:
    """Lets one transaction after the other ask whether a target is busy. On SQLite one writes at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"{operation.kind} {operation.target}"))))


async def _locked(session: AsyncSession, which: ColumnElement[bool]) -> Operation | None:
    """Gives an operation that no other transaction changes before this one ends."""
    # A write, so that SQLite too has one transaction after the other.
    statement = update(OPERATIONS).where(which).values(kind=COLUMNS.kind).returning(OPERATIONS)
    row = (await session.execute(statement)).mappings().one_or_none()
    return None if row is None else _operation(row)


async def _find(session: AsyncSession, operation: str) -> Operation | None:
    row = (await session.execute(select(OPERATIONS).where(COLUMNS.id == operation))).mappings().one_or_none()
    return None if row is None else _operation(row)


def _row(operation: Operation) -> dict[str, Any]:
    return {
        "id": operation.id,
        "kind": operation.kind,
        "target": operation.target,
        "arguments": dict(operation.arguments),
        "state": operation.state.value,
        "steps": _steps_row(operation.steps),
        "error_reason": operation.error_reason,
        "error_message": operation.error_message,
        "creator": operation.creator,
        "create_time": operation.create_time,
        "end_time": operation.end_time,
        "cancel_requested": operation.cancel_requested,
        "runner": "",
        "lease_time": None,
    }


def _steps_row(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {
            "title": step.title,
            "state": step.state.value,
            "done": step.done,
            "total": step.total,
            "unit": step.unit,
            "cancellable": step.cancellable,
        }
        for step in steps
    ]


def _operation(row: RowMapping) -> Operation:
    return Operation(
        id=row["id"],
        kind=row["kind"],
        target=row["target"],
        arguments=row["arguments"],
        state=OperationState(row["state"]),
        steps=tuple(Step(**(step | {"state": OperationState(step["state"])})) for step in row["steps"]),
        creator=row["creator"],
        create_time=row["create_time"],
        error_reason=row["error_reason"],
        error_message=row["error_message"],
        end_time=row["end_time"],
        cancel_requested=row["cancel_requested"],
    )
