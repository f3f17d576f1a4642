"""What is kept of snapshots: the last ones of each Envoy, with what changed in them and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, TYPES, Snapshot

MAX_CHANGES = 50
_WORDS = {
    SECRET: "secret",
    CLUSTER: "cluster",
    ENDPOINTS: "endpoints",
    LISTENER: "listener",
    ROUTES: "routes",
}


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """What is said of a snapshot.

    Attributes:
        version: Its version.
        create_time: When it was made.
        cause: Why, such as "site hospital-a joined".
        changes: What changed against the one before, in words.
    """

    version: str
    create_time: datetime
    cause: str
    changes: tuple[str, ...]


class SnapshotStore(Protocol):
    """Keeps the last snapshots of each Envoy. Every method raises StorageUnavailable."""

    async def add(self, proxy: str, record: SnapshotRecord, snapshot: Snapshot) -> None:
        """Keeps a snapshot as the newest, unless the newest has its version."""
        ...

    async def newest(self, proxy: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """Gives the newest snapshot."""
        ...

    async def find(self, proxy: str, version: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """Gives the newest snapshot of that version."""
        ...

    async def list_records(self, proxy: str) -> Sequence[SnapshotRecord]:
        """Gives what is said of the kept ones, the newest first."""
        ...


def changes_between(former: Snapshot | None, new: Snapshot) -> tuple[str, ...]:
    """Says in words what is added, changed and removed, by type and name; at most MAX_CHANGES things."""
    words = []
    for type_url in TYPES:
        before = {} if former is None else former.resource_versions.get(type_url, {})
        after = new.resource_versions.get(type_url, {})
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                what = "removed" if name not in after else "changed" if name in before else "added"
                words.append(f"{_WORDS[type_url]} {name} {what}")
    if len(words) > MAX_CHANGES:
        words[MAX_CHANGES - 1 :] = [f"and {len(words) - MAX_CHANGES + 1} more"]
    return tuple(words)
