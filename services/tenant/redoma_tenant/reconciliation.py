"""Asks the models' journals about calls whose last counts nobody told, and books what it says.

A call is asked about when it was settled without its last counts, or when its lease lapsed because its chat died. One
of which nothing is known anywhere is booked as it was counted last; if it used nothing, that is a settlement without
entries.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from redoma_tenant.meter.counts import NOTHING, TokenCounts
from redoma_tenant.meter.meter import Meter
from redoma_tenant.meter.reservation import Reservation
from redoma_tenant.meter.told import Certainty, Ending

INTERVAL_S = 1.0
MOST_AT_ONCE = 500
# A request that was sent just before may still be on its way to the model.
GRACE = timedelta(seconds=10)
# A model process that does not come back for so long has forgotten.
LONGEST_WAIT = timedelta(hours=24)
LEAST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=1)
# Calls settle once; what was said twice of one is known for so long.
KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class DueCall:
    """A call to ask about, `since` when it is waited for, and the time that made it due."""

    tenant: str
    token_id: str
    since: datetime
    lapse_time: datetime

    @classmethod
    def found(cls, tenant: str, reservation: Reservation, now: datetime) -> "DueCall":
        """Gives a call that is due; one whose chat died is waited for from now on."""
        return cls(tenant, reservation.token_id, reservation.settle_time or now, reservation.lapse_time)

    def due_again(self, now: datetime) -> datetime:
        """Gives when to ask again: after a quarter of the time that it was waited for."""
        return now + min(max((now - self.since) / 4, LEAST_PAUSE), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What a model process knows of a call."""

    token_id: str
    tenant: str
    model: str
    counts: TokenCounts
    has_ended: bool


class UsageJournals(Protocol):
    """The journals of all model processes."""

    async def records(self, token_ids: Sequence[str]) -> Sequence[Sequence[UsageRecord] | None]:
        """Gives what each knows of calls by their `jti`; None for one that does not answer, or is not known yet."""


class NoJournals:
    """Stands for models that are not configured."""

    async def records(self, token_ids: Sequence[str]) -> Sequence[Sequence[UsageRecord] | None]:
        """Gives nothing."""
        return ()


class DueCallStore(Protocol):
    """Where calls are kept. Every call may raise StorageUnavailable."""

    async def claim_due(self, now: datetime, limit: int) -> Sequence[DueCall]:
        """Gives calls whose time has come, and keeps other replicas from them until they are due again."""
        ...

    async def prune_closed(self, before: datetime) -> int:
        """Deletes some calls that are closed and lapsed before, and says how many."""
        ...


class Reconciler:
    """Closes what was left open. Without a journal to ask, every call is closed as it was counted last."""

    def __init__(
        self,
        store: DueCallStore,
        meter: Meter,
        journals: UsageJournals,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._meter = meter
        self._journals = journals
        self._now = now
        self._log = log

    async def reconcile(self) -> None:
        """Asks about all calls that are due. May raise StorageUnavailable."""
        while due := await self._store.claim_due(self._now(), MOST_AT_ONCE):
            token_ids = [call.token_id for call in due]
            answers = await self._journals.records(token_ids)
            known = _together(record for answer in answers if answer is not None for record in answer)
            await self._book(due, known, all_answered=None not in answers)
            if len(due) < MOST_AT_ONCE:
                return

    async def prune(self) -> None:
        """Forgets calls that were closed long ago; the ledger keeps them. May raise StorageUnavailable."""
        before = self._now() - KEPT
        while await self._store.prune_closed(before):
            continue

    async def _book(
        self, due: Sequence[DueCall], known: Mapping[tuple[str, str], UsageRecord], *, all_answered: bool
    ) -> None:
        endings: dict[str, list[Ending]] = defaultdict(list)
        for call in due:
            ending = self._ending(call, known.get((call.tenant, call.token_id)), all_answered=all_answered)
            if ending is not None:
                endings[call.tenant].append(ending)
        for tenant, some in endings.items():
            await self._meter.settle(tenant, some)

    def _ending(self, call: DueCall, record: UsageRecord | None, *, all_answered: bool) -> Ending | None:
        waited = self._now() - call.since
        if record is not None and record.has_ended:
            return Ending(call.token_id, record.counts, Certainty.JOURNAL, record.model)
        counts, model = (NOTHING, "") if record is None else (record.counts, record.model)
        if waited >= LONGEST_WAIT:
            self._log.warning("a call is closed without its last counts", tenant=call.tenant, token_id=call.token_id)
            return Ending(call.token_id, counts, Certainty.LAST_WORD, model)
        if record is None and all_answered and waited >= GRACE:
            return Ending(call.token_id, NOTHING, Certainty.LAST_WORD)
        return None


def _together(records: Iterable[UsageRecord]) -> dict[tuple[str, str], UsageRecord]:
    """Adds up what several processes know of a call, which runs while one of them runs it."""
    known: dict[tuple[str, str], UsageRecord] = {}
    for record in records:
        key = (record.tenant, record.token_id)
        if (other := known.get(key)) is not None:
            record = replace(
                record,
                model=other.model or record.model,
                counts=other.counts.plus(record.counts),
                has_ended=other.has_ended and record.has_ended,
            )
        known[key] = record
    return known
