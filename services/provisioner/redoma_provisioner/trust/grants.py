"""Grants as operators make, list and revoke them."""

import base64
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from redoma_kit.errors import InvalidField
from redoma_kit.join_token import CODE_BYTES, JoinToken
from redoma_kit.pages import page_position, page_size, page_token
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.grant import LinkGrant, code_hash
from redoma_provisioner.trust.names import check_site_id

DEFAULT_TTL = timedelta(minutes=15)
MIN_TTL, MAX_TTL = timedelta(minutes=1), timedelta(days=7)
KEPT_FOR = timedelta(days=30)
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class GrantStore(Protocol):
    """Where grants are kept."""

    async def add_grant(self, grant: LinkGrant, code_hash: str) -> None:
        """Adds a grant and its site, and revokes the site's active one; raises StateConflict or ResourceExists."""
        ...

    async def list_grants(self, after: tuple[datetime, str] | None, limit: int) -> Sequence[LinkGrant]:
        """Gives at most `limit` grants, the newest first, those after the time and id `after`."""
        ...

    async def revoke_grant(self, grant_id: str, now: datetime) -> LinkGrant:
        """Revokes a grant that can still be redeemed, and gives it; raises ResourceNotFound."""
        ...


@dataclass(frozen=True, slots=True)
class GrantSettings:
    """What is wanted of a grant; None is the default."""

    site: str
    driver: DriverKind | None = None
    ttl: timedelta | None = None
    rejoin: bool = False


@dataclass(frozen=True, slots=True)
class GrantPage:
    """Part of the list of grants; an empty token ends it."""

    grants: Sequence[LinkGrant]
    next_page_token: str


class Grants:
    """Makes, lists and revokes grants. `driver` is this site's own; `changed` is told of a site that is new."""

    __slots__ = ("_address", "_changed", "_digest", "_driver", "_now", "_store")

    def __init__(
        self,
        store: GrantStore,
        address: str,
        digest: bytes,
        driver: DriverKind,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._address = address
        self._digest = digest
        self._driver = driver
        self._now = now
        self._changed = changed

    async def create(self, wanted: GrantSettings, creator: str) -> tuple[LinkGrant, str]:
        """Makes a grant, and gives it with its token, which is kept nowhere.

        Raises:
            InvalidField: The site's id, the driver or the time can't be used.
            StateConflict: The site is revoked.
            ResourceExists: It has joined, and is not to join anew.
        """
        check_site_id("link_grant.site", wanted.site)
        ttl = DEFAULT_TTL if wanted.ttl is None else wanted.ttl
        if not MIN_TTL <= ttl <= MAX_TTL:
            raise InvalidField("link_grant.ttl", "must be from one minute to seven days.")
        now = self._now()
        code = base64.urlsafe_b64encode(secrets.token_bytes(CODE_BYTES)).rstrip(b"=").decode()
        driver = wanted.driver or self._driver
        grant = LinkGrant(uuid.uuid4().hex, wanted.site, driver, creator, wanted.rejoin, now, now + ttl)
        await self._store.add_grant(grant, code_hash(code))
        self._changed()
        return grant, JoinToken(self._address, self._digest, code).text

    async def list(self, size: int, token: str) -> GrantPage:
        """Gives a page of the grants, the newest first.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        limit = page_size(size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        position = page_position(token, ("linkGrants",), (int, str))
        after = None if position is None else (_time_of(int(position[0])), str(position[1]))
        found = await self._store.list_grants(after, limit + 1)
        if len(found) <= limit:
            return GrantPage(found, "")
        last = found[limit - 1]
        micros = (last.create_time - EPOCH) // MICROSECOND
        return GrantPage(found[:limit], page_token(("linkGrants",), (micros, last.id)))

    async def revoke(self, grant_id: str) -> LinkGrant:
        """Revokes a grant; one that can't be redeemed any more stays as it is.

        Raises:
            ResourceNotFound: There is none.
        """
        return await self._store.revoke_grant(grant_id, self._now())


def _time_of(micros: int) -> datetime:
    try:
        return EPOCH + micros * MICROSECOND
    except OverflowError:
        raise InvalidField("page_token", "is out of range; begin again without it.") from None
