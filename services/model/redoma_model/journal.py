"""What each request cost, by the `jti` of its identity: a bounded record to correct what a dead caller left open."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from redoma_model.engine.usage import Ending, OpenedRequest, TokenCounts, UsageSink


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What the requests of one `jti` cost.

    Attributes:
        place: Grows from record to record.
        started_at_s: Unix seconds.
        ended_at_s: Unix seconds; None while one of them runs.
        ending: Why the last of them ended, or the first that was interrupted; None while one runs.
    """

    place: int
    token_id: str
    tenant: str
    model: str
    adapter: str
    started_at_s: float
    ended_at_s: float | None
    counts: TokenCounts
    ending: Ending | None


@dataclass(slots=True, eq=False)
class _Entry:
    place: int
    request: OpenedRequest
    model: str
    started_at_s: float
    open_requests: int = 0
    ended_at_s: float | None = None
    ending: Ending | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class UsageJournal:
    """The latest records, at most `limit`; the oldest are forgotten. Engines write on their threads; the loop reads."""

    def __init__(self, limit: int, now: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._now = now
        # Guards the entries. Held for a copy of their list at most.
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._next_place = 1

    def of(self, model: str) -> UsageSink:
        """Gives what the engine of a model writes to."""
        return _ModelSink(self, model)

    def opened(self, model: str, request: OpenedRequest) -> None:
        """Notes that a request of a model was accepted."""
        with self._lock:
            entry = self._entries.get(request.token_id)
            if entry is None:
                entry = _Entry(self._next_place, request, model, self._now())
                self._next_place += 1
                self._entries[request.token_id] = entry
                if len(self._entries) > self._limit:
                    del self._entries[next(iter(self._entries))]
            entry.open_requests += 1

    def counted(self, token_id: str, more: TokenCounts) -> None:
        """Adds to what the requests of a `jti` cost; one that was forgotten stays so."""
        with self._lock:
            entry = self._entries.get(token_id)
            if entry is not None:
                entry.input_tokens += more.input_tokens
                entry.cached_input_tokens += more.cached_input_tokens
                entry.output_tokens += more.output_tokens
                entry.reasoning_tokens += more.reasoning_tokens

    def closed(self, token_id: str, ending: Ending) -> None:
        """Notes that a request ended."""
        with self._lock:
            entry = self._entries.get(token_id)
            if entry is None or entry.open_requests == 0:
                return
            entry.open_requests -= 1
            entry.ended_at_s = self._now()
            if entry.ending is not Ending.INTERRUPTED:
                entry.ending = ending

    def latest(
        self, limit: int, before: int | None = None, tenant: str = "", token_ids: Collection[str] = ()
    ) -> list[UsageRecord]:
        """Gives records, the latest first.

        Args:
            limit: How many at most.
            before: Only those of an earlier place; None is all.
            tenant: Only this tenant's; empty is all.
            token_ids: Only those of these `jti`; empty is all.
        """
        with self._lock:
            if token_ids:
                named = (self._entries.get(token_id) for token_id in dict.fromkeys(token_ids))
                entries = sorted((entry for entry in named if entry is not None), key=lambda entry: entry.place)
            else:
                entries = list(self._entries.values())
        records: list[UsageRecord] = []
        for entry in reversed(entries):
            if len(records) == limit:
                break
            if (before is None or entry.place < before) and tenant in ("", entry.request.tenant):
                records.append(self._record(entry))
        return records

    def _record(self, entry: _Entry) -> UsageRecord:
        with self._lock:
            running = entry.open_requests > 0
            return UsageRecord(
                place=entry.place,
                token_id=entry.request.token_id,
                tenant=entry.request.tenant,
                model=entry.model,
                adapter=entry.request.adapter,
                started_at_s=entry.started_at_s,
                ended_at_s=None if running else entry.ended_at_s,
                counts=TokenCounts(
                    entry.input_tokens, entry.cached_input_tokens, entry.output_tokens, entry.reasoning_tokens
                ),
                ending=None if running else entry.ending,
            )


@dataclass(frozen=True, slots=True)
class _ModelSink:
    journal: UsageJournal
    model: str

    def opened(self, request: OpenedRequest) -> None:
        self.journal.opened(self.model, request)

    def counted(self, token_id: str, more: TokenCounts) -> None:
        self.journal.counted(token_id, more)

    def closed(self, token_id: str, ending: Ending) -> None:
        self.journal.closed(token_id, ending)
