"""The hash chain: what an entry's hash is over, how a chain grows, and where it is found broken.

The hash of an entry is the SHA-256 of its canonical form: the JSON object that an export has it as, without `hash`, as
RFC 8785 writes it down (members sorted, no spaces, UTF-8). `previous_hash` is among its members, so each hash stands
for all that came before. Whoever has an export can compute the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from redoma_tenant.names import PLATFORM, tenant_name

NO_HASH = "0" * 64
# What the service writes of itself when it finds a head that it did not sign.
HEAD_REPLACED = "redoma.audit/HeadReplaced"


@dataclass(frozen=True, slots=True)
class Event:
    """Something done or denied, before it has a place in a chain.

    Attributes:
        chain: Id of the tenant whose chain it belongs to; empty is the platform's.
        time: When.
        actor: Who, by resource name; empty if that is not known.
        action: What: the full name of a method, or of what a service did by itself.
        resource: To what, by resource name; empty if that is not known.
        source: From where.
        result: "OK", "ADMITTED", or the reason of the error.
        request_id: What the logs have it under.
        details: More of it; never content, never a credential.
        count: How many it stands for.
    """

    chain: str
    time: datetime
    actor: str
    action: str
    resource: str
    source: str
    result: str
    request_id: str
    details: Mapping[str, str]
    count: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place. `sequence` counts from 1."""

    event: Event
    sequence: int
    previous_hash: str
    hash: str

    @property
    def name(self) -> str:
        """The resource name."""
        return f"{chain_name(self.event.chain)}/auditEntries/{self.sequence}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a chain: how many entries there are up to it, and the hash of the last of them."""

    sequence: int
    hash: str


BEGINNING = Position(0, NO_HASH)


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain is not whole. `problem` is one sentence."""

    sequence: int
    problem: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry that the store can't make sense of any more."""

    sequence: int


def chain_name(chain: str) -> str:
    """Gives the name of a chain: the tenant's, or `platform`."""
    return tenant_name(chain) if chain else PLATFORM


def time_text(time: datetime) -> str:
    """Gives a time as entries have it, such as 2026-11-03T12:00:00.000000Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def fields_of(entry: Entry) -> dict[str, object]:
    """Gives the members of an entry, `hash` among them."""
    event = entry.event
    return {
        "name": entry.name,
        "sequence": entry.sequence,
        "time": time_text(event.time),
        "actor": event.actor,
        "action": event.action,
        "resource": event.resource,
        "source": event.source,
        "result": event.result,
        "request_id": event.request_id,
        "details": dict(event.details),
        "count": event.count,
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def canonical(fields: Mapping[str, object]) -> str:
    """Writes members down as RFC 8785 does. The names are ASCII and the numbers whole, so sorting is all it takes."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(entry: Entry) -> str:
    """Computes the hash that an entry must have, whatever it says."""
    fields = fields_of(entry)
    del fields["hash"]
    return hashlib.sha256(canonical(fields).encode("utf-8", "surrogatepass")).hexdigest()


def extended(position: Position, events: Iterable[Event]) -> list[Entry]:
    """Gives the entries of `events` as they follow on `position`."""
    entries: list[Entry] = []
    for event in events:
        unhashed = Entry(event, position.sequence + 1, position.hash, "")
        entry = Entry(event, unhashed.sequence, unhashed.previous_hash, hash_of(unhashed))
        position = Position(entry.sequence, entry.hash)
        entries.append(entry)
    return entries


class ChainCheck:
    """Follows a chain from its first entry, and keeps the first break.

    `known` is a place that was noted before and must still be part of it.
    """

    __slots__ = ("_known", "_last", "found")

    def __init__(self, known: Position | None = None) -> None:
        self._known = known
        self._last = BEGINNING
        self.found: Break | None = None

    def follow(self, entry: Entry | Unreadable) -> bool:
        """Looks at the next entry in order, and tells whether all is whole so far."""
        problem = self._gap(entry.sequence) or self._problem(entry)
        if problem is not None:
            self.found = self.found or problem
        elif isinstance(entry, Entry):
            self._last = Position(entry.sequence, entry.hash)
        return self.found is None

    def end(self, head: Position, last_sequence: int) -> bool:
        """Compares the end with the head, and with the last sequence that the store holds."""
        if self.found is None:
            self.found = self._problem_at_the_end(head, last_sequence)
        return self.found is None

    def _gap(self, sequence: int) -> Break | None:
        expected = self._last.sequence + 1
        if sequence == expected:
            return None
        if sequence < expected:
            return Break(sequence, f"Entry {sequence} is out of order.")
        return Break(expected, f"Entry {expected} is missing; the next there is is {sequence}.")

    def _problem(self, entry: Entry | Unreadable) -> Break | None:
        sequence = entry.sequence
        if isinstance(entry, Unreadable):
            return Break(sequence, f"Entry {sequence} was changed: it can't be read.")
        if hash_of(entry) != entry.hash:
            return Break(sequence, f"Entry {sequence} was changed: its hash is not that of its fields.")
        if entry.previous_hash != self._last.hash:
            return Break(sequence, f"Entry {sequence} does not follow the one before it: one of the two was replaced.")
        if self._known is not None and self._known.sequence == sequence and self._known.hash != entry.hash:
            return Break(sequence, f"Entry {sequence} is not the one that was noted: the chain was written anew.")
        if entry.event.action == HEAD_REPLACED:
            return Break(sequence, f"The head before entry {sequence} was not this service's: entries were replaced.")
        return None

    def _problem_at_the_end(self, head: Position, last_sequence: int) -> Break | None:
        reached = self._last.sequence
        if reached < head.sequence:
            return Break(reached + 1, f"Entries from {reached + 1} on are missing; the head counts {head.sequence}.")
        if last_sequence > head.sequence:
            return Break(head.sequence + 1, f"Entry {head.sequence + 1} lies beyond the head.")
        if self._last.hash != head.hash:
            return Break(reached, f"The head does not stand for entry {reached}: one of the two was replaced.")
        if self._known is not None and self._known.sequence > reached:
            return Break(
                reached + 1, f"Entries from {reached + 1} on are missing; {self._known.sequence} had been noted."
            )
        return None
