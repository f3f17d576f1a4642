"""Reads the chains: lists, exports, verifies."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from redoma_kit.pages import Position as PagePosition
from redoma_tenant.audit.chain import BEGINNING, Break, ChainCheck, Entry, Position, Unreadable, chain_name
from redoma_tenant.audit.heads import Head, HeadKeys
from redoma_tenant.audit.store import AuditStore, Wanted
from redoma_tenant.errors import AuditDamaged
from redoma_tenant.pages import Page, read_page

BATCH_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found; `found` is None if the chain is whole."""

    head: Head
    found: Break | None


class AuditBook:
    """The chains as callers read them."""

    __slots__ = ("_keys", "_store")

    def __init__(self, store: AuditStore, keys: HeadKeys) -> None:
        self._store = store
        self._keys = keys

    async def list(self, chain: str, wanted: Wanted, requested: int, token: str) -> Page[Entry]:
        """Gives a page of entries, the latest first.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        return await read_page(
            _request(chain, wanted),
            requested,
            token,
            (int,),
            lambda position, limit: self._store.list_entries(chain, wanted, _sequence(position), limit),
            lambda entry: (entry.sequence,),
        )

    async def head(self, chain: str) -> Head:
        """Gives the head of a chain."""
        return (await self._store.find_end(chain)).head or _none(chain)

    async def read(self, head: Head) -> AsyncIterator[Sequence[Entry]]:
        """Gives the entries up to a head in batches, the earliest first.

        Raises:
            AuditDamaged: An entry can't be read; a verification says more.
        """
        async for batch in self._batches(head.chain, head.position.sequence):
            entries = [entry for entry in batch if isinstance(entry, Entry)]
            if entries:
                yield entries
            for entry in batch:
                if isinstance(entry, Unreadable):
                    raise AuditDamaged(f"{chain_name(head.chain)}/auditEntries/{entry.sequence}")

    async def verify(self, chain: str, known: Position | None) -> Verdict:
        """Reads a chain from its beginning and looks for edits, gaps and a head that is not ours.

        `known` is a place that was noted before.
        """
        end = await self._store.find_end(chain)
        head = end.head or _none(chain)
        check = ChainCheck(known)
        async for batch in self._batches(chain, max(head.position.sequence, end.last_sequence)):
            if not all(check.follow(entry) for entry in batch):
                return Verdict(head, check.found)
        if check.end(head.position, end.last_sequence) and head.position != BEGINNING and not self._keys.is_ours(head):
            problem = "The head's signature is not this service's, or its key is no longer in the key set."
            return Verdict(head, Break(head.position.sequence, problem))
        return Verdict(head, check.found)

    async def _batches(self, chain: str, to: int) -> AsyncIterator[Sequence[Entry | Unreadable]]:
        after = 0
        while batch := await self._store.read_entries(chain, after, to, BATCH_ENTRIES):
            yield batch
            after = batch[-1].sequence


def _sequence(position: PagePosition | None) -> int | None:
    return None if position is None else int(position[0])


def _none(chain: str) -> Head:
    return Head(chain, BEGINNING, "")


def _request(chain: str, wanted: Wanted) -> tuple[str, ...]:
    times = (_text(wanted.start_time), _text(wanted.end_time))
    return (chain_name(chain), *times, wanted.actor, wanted.action, wanted.result, wanted.resource_prefix)


def _text(time: datetime | None) -> str:
    return "" if time is None else time.isoformat()
