"""Something that a credential stands for has changed, or will: what is kept of it, and told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a credential stands for has changed.

    Attributes:
        position: Where in the feed; what is drawn later is greater, and may still come earlier.
        tenant: The id of the tenant, empty for what is of none.
        principal: Resource name of whom it concerns; empty is all of the tenant, or everyone.
        reason: Name of the ErrorReason that running calls end with; empty if they may go on.
        time: When it was decided.
    """

    position: int
    tenant: str
    principal: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Expiry:
    """A key that expires at `time`."""

    tenant: str
    principal: str
    time: datetime


class ChangeStore(Protocol):
    """Where changes are kept. Every call may raise StorageUnavailable."""

    async def read_changes(self, after: int, others: Sequence[int]) -> Sequence[Change]:
        """Gives those after a position, and those at `others`, in the order of their positions."""

    async def newest_position(self) -> int:
        """Gives the greatest position, 0 if there is none."""

    async def read_expiries(self, after: datetime, until: datetime) -> Sequence[Expiry]:
        """Gives the keys that expire after `after` and not after `until`, the earliest first."""

    async def prune_changes(self, before: datetime) -> None:
        """Deletes older ones, but never the newest, so that no position is given twice."""
