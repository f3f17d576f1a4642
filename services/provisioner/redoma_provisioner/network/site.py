"""A site as people set it and as it is kept."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from redoma_provisioner.network.driver import DriverKind

MAX_DISPLAY_NAME = 200
MAX_PRIORITY = 9


class SiteState(Enum):
    """Whether a site may be part of the network."""

    INVITED = "INVITED"
    JOINED = "JOINED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class Site:
    """A place with a certificate of its own.

    Attributes:
        id: Its id.
        display_name: What people call it.
        state: Whether it may be part of the network.
        driver: What carries its links.
        priority: Of sites whose models answer, those with the lowest number are used first.
        version: Counts what people set: the etag.
        create_time: When its first grant was made.
        join_time: When it joined.
        revoke_time: When it was revoked.
        last_seen_time: When it was last heard of; written down only now and then.
        trust_sequence: Number of the trust bundle it has confirmed.
    """

    id: str
    display_name: str
    state: SiteState
    driver: DriverKind
    priority: int
    version: int
    create_time: datetime
    join_time: datetime | None = None
    revoke_time: datetime | None = None
    last_seen_time: datetime | None = None
    trust_sequence: int = 0


@dataclass(frozen=True, slots=True)
class SiteCertificates:
    """What is known of a private site's certificates.

    Attributes:
        gateway: SHA-256, lower-case hex, of each that its gateway may show now.
        expire_time: When the first of its services has none any more.
    """

    gateway: tuple[str, ...]
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Sighting:
    """That a site was heard of."""

    site: str
    time: datetime
    trust_sequence: int
