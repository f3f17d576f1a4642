"""Writes the chains: everything in one queue, together what came together, and nothing is ever skipped.

An entry is written when the call it tells of has ended, since only then its result is known. So the change may be made
and the entry not: then the entry waits here and is tried again, the log has all of it, and `check` refuses every
further administrative call until it is written.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_tenant.audit.chain import BEGINNING, HEAD_REPLACED, Entry, Event, Position, extended, fields_of
from redoma_tenant.audit.heads import Head, HeadKeys
from redoma_tenant.audit.store import AuditStore, ChainMoved
from redoma_tenant.audit.wording import fit

RETRY_S = 1.0
STOP_S = 5.0
MAX_ATTEMPTS = 5
HEADS_A_PAGE = 500


@dataclass(eq=False, slots=True)
class _Pending:
    event: Event
    note: str
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    is_told: bool = False


class AuditTrail:
    """Appends events to their chains. `start` it; what is recorded before is written then."""

    def __init__(
        self, store: AuditStore, keys: HeadKeys, log: structlog.stdlib.BoundLogger, retry_s: float = RETRY_S
    ) -> None:
        self._store = store
        self._keys = keys
        self._log = log
        self._retry_s = retry_s
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._run(), name="audit trail", context=contextvars.Context())

    async def stop(self) -> None:
        """Writes what is left and stops; what can't be written within STOP_S seconds is in the log."""
        try:
            async with asyncio.timeout(STOP_S):
                await self.written()
        except TimeoutError:
            self._log.error("audit entries lost; the log has each", entries=len(self._pending))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check(self) -> None:
        """Refuses what would have to be recorded while nothing can be.

        Raises:
            StorageUnavailable: Entries of calls that have ended are not written yet, since the database is away.
        """
        if self._is_failing:
            raise StorageUnavailable()

    async def record(self, event: Event, note: str = "") -> None:
        """Appends an event and waits until it is written, or once could not be. Being cancelled loses nothing.

        `note` is the id of the note that its call was begun with, if any, which goes then.
        """
        await self._put(event, note).tried.wait()

    def submit(self, event: Event, note: str = "") -> None:
        """Appends an event soon; `note` is as in `record`."""
        self._put(event, note)

    async def written(self) -> None:
        """Waits until all that was recorded is written."""
        await self._empty.wait()

    def _put(self, event: Event, note: str) -> _Pending:
        pending = _Pending(fit(event), note)
        self._pending.append(pending)
        self._empty.clear()
        self._wake.set()
        return pending

    async def _run(self) -> None:
        await self._renew_heads()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_all()
            if self._is_failing:
                await asyncio.sleep(self._retry_s)
                self._wake.set()

    async def _write_all(self) -> None:
        """Writes what is pending, a transaction a chain."""
        by_chain: dict[str, list[_Pending]] = {}
        for pending in self._pending:
            by_chain.setdefault(pending.event.chain, []).append(pending)
        failed = False
        for chain, batch in by_chain.items():
            if await self._write(chain, batch):
                written = set(batch)
                self._pending = [pending for pending in self._pending if pending not in written]
            else:
                failed = True
            for pending in batch:
                pending.tried.set()
        if self._is_failing and not failed:
            self._log.info("audit entries are written again")
        self._is_failing = failed
        if not self._pending:
            self._empty.set()

    async def _write(self, chain: str, batch: Sequence[_Pending]) -> bool:
        events = [pending.event for pending in batch]
        notes = [pending.note for pending in batch if pending.note]
        try:
            for _ in range(MAX_ATTEMPTS):
                try:
                    await self._store.append(chain, lambda head, stray: self._extend(chain, head, stray, events), notes)
                    return True
                except ChainMoved:
                    continue
            cause = "others append to the chain all the time"
        except StorageUnavailable:
            cause = "the database is away"
        except Exception:
            self._log.exception("audit entries can't be written")
            cause = "a defect"
        self._tell(batch, cause)
        return False

    def _tell(self, batch: Sequence[_Pending], cause: str) -> None:
        for pending in batch:
            if not pending.is_told:
                pending.is_told = True
                entry = fields_of(Entry(pending.event, 0, "", ""))
                self._log.error("audit entry not written yet", cause=cause, entry=entry)

    def _extend(
        self, chain: str, head: Head | None, stray: Position | None, events: Sequence[Event]
    ) -> tuple[Sequence[Entry], Head]:
        """Signs over nothing that this service did not write without an entry that says so for ever."""
        position = stray or (BEGINNING if head is None else head.position)
        if stray is not None or not (head is None or self._keys.is_ours(head)):
            self._log.error("the head of an audit chain was replaced", chain=chain, sequence=position.sequence)
            events = [_replaced(events[0], position), *events]
        entries = extended(position, events)
        last = entries[-1]
        return entries, self._keys.signed(chain, Position(last.sequence, last.hash))

    async def _renew_heads(self) -> None:
        """Signs heads anew that an earlier key of this service signed, so that the key may be forgotten."""
        after: str | None = None
        try:
            while heads := await self._store.list_heads(after, HEADS_A_PAGE):
                for head in heads:
                    if not self._keys.is_current(head) and self._keys.is_ours(head):
                        await self._store.sign_again(head, self._keys.signed(head.chain, head.position).signature)
                after = heads[-1].chain
        except StorageUnavailable:
            self._log.warning("heads of audit chains not looked through; the next start does")


def _replaced(first: Event, position: Position) -> Event:
    return Event(
        chain=first.chain,
        time=first.time,
        actor="",
        action=HEAD_REPLACED,
        resource="",
        source="",
        result="REPLACED",
        request_id="",
        details={"sequence": str(position.sequence), "hash": position.hash},
    )
