"""Where a tenant wants the texts of its conversations to be kept, and for how long."""

from dataclasses import dataclass
from enum import Enum


class ContentStorage(Enum):
    """The places."""

    PUBLIC = "PUBLIC"
    NONE = "NONE"
    PRIVATE = "PRIVATE"


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """What a tenant wants.

    Attributes:
        tenant: Its id.
        storage: Where conversations are kept.
        retention_s: How long one is kept after its last change, in seconds; None is until it is deleted.
    """

    tenant: str
    storage: ContentStorage
    retention_s: float | None = None
