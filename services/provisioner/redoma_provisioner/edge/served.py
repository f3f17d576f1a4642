"""What an Envoy is served now, ready to send."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from redoma_provisioner.edge.encoding import EncodedResources
from redoma_provisioner.edge.snapshot import Snapshot, digest


@dataclass(frozen=True)
class Served:
    """A snapshot that was checked, with its resources encoded."""

    snapshot: Snapshot
    encoded: EncodedResources

    @cached_property
    def type_versions(self) -> Mapping[str, str]:
        """The version of all resources of a type together, by type url."""
        return {type_url: digest(versions) for type_url, versions in self.snapshot.resource_versions.items()}
