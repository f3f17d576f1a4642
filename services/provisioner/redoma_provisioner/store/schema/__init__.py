"""The tables, a file for each field. A change here needs a migration; a test compares the two."""

from redoma_provisioner.store.schema.base import METADATA, UtcDateTime
from redoma_provisioner.store.schema.network import CONNECTORS, LINK_GRANTS, SITES
from redoma_provisioner.store.schema.operations import OPERATIONS
from redoma_provisioner.store.schema.snapshots import SNAPSHOTS
from redoma_provisioner.store.schema.trust import CERTIFICATES, TRUST

__all__ = [
    "CERTIFICATES",
    "CONNECTORS",
    "LINK_GRANTS",
    "METADATA",
    "OPERATIONS",
    "SITES",
    "SNAPSHOTS",
    "TRUST",
    "UtcDateTime",
]
