"""A grant that lets one private site join, once."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from redoma_provisioner.network.driver import DriverKind


class GrantState(Enum):
    """Whether a grant can be redeemed."""

    ACTIVE = "ACTIVE"
    REDEEMED = "REDEEMED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class LinkGrant:
    """A grant without its code, of which only a hash is kept.

    Attributes:
        id: Its id.
        site: The id of the site that joins with it.
        driver: What carries the site's links.
        creator: The principal that made it.
        rejoin: Whether a site that has joined may do so anew.
        create_time: When it was made.
        expire_time: When it can no longer be redeemed.
        redeem_time: When a site joined with it; None: none has.
        revoke_time: When it was revoked; None: it was not.
    """

    id: str
    site: str
    driver: DriverKind
    creator: str
    rejoin: bool
    create_time: datetime
    expire_time: datetime
    redeem_time: datetime | None = None
    revoke_time: datetime | None = None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"linkGrants/{self.id}"

    def state(self, now: datetime) -> GrantState:
        """Says whether it can be redeemed."""
        if self.redeem_time is not None:
            return GrantState.REDEEMED
        if self.revoke_time is not None:
            return GrantState.REVOKED
        return GrantState.EXPIRED if now >= self.expire_time else GrantState.ACTIVE


def code_hash(code: str) -> str:
    """Gives what is kept of a code: its SHA-256, hex. With 256 random bits in it, it needs no salt."""
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()
