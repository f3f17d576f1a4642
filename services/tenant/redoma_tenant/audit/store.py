"""Where chains are kept, as the rest of the audit knows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from redoma_tenant.audit.chain import Entry, Position, Unreadable
from redoma_tenant.audit.heads import Head

# Gives what follows on the head that is kept, and the head then. The position is that of the last entry if it lies
# beyond the head, which no process of ours leaves behind.
Extend = Callable[[Head | None, Position | None], tuple[Sequence[Entry], Head]]


class ChainMoved(Exception):
    """Another process appended to the chain at the same time; nothing was written. Begin again from its head."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries to list. None and empty texts are all."""

    start_time: datetime | None = None
    end_time: datetime | None = None
    actor: str = ""
    action: str = ""
    result: str = ""
    resource_prefix: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """How a chain ends: its head, None without one, and the last sequence among its entries, 0 without any."""

    head: Head | None
    last_sequence: int


class AuditStore(Protocol):
    """Keeps chains. Every call may raise StorageUnavailable."""

    async def append(self, chain: str, extend: Extend, notes: Sequence[str] = ()) -> None:
        """Adds what `extend` gives for the head, which is locked meanwhile, and takes notes of what was begun away.

        Raises ChainMoved.
        """

    async def list_heads(self, after: str | None, limit: int) -> Sequence[Head]:
        """Gives at most `limit` heads in the order of their chains, those after `after`."""

    async def sign_again(self, head: Head, signature: str) -> None:
        """Replaces the signature, unless the head has moved."""

    async def find_end(self, chain: str) -> End:
        """Gives the end of a chain, head and last entry of the same moment."""

    async def list_entries(self, chain: str, wanted: Wanted, before: int | None, limit: int) -> Sequence[Entry]:
        """Gives at most `limit` entries, the latest first, those before the sequence `before`."""

    async def read_entries(self, chain: str, after: int, to: int, limit: int) -> Sequence[Entry | Unreadable]:
        """Gives at most `limit` entries, the earliest first, those after `after` up to `to`."""
