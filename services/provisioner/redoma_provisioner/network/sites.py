"""What people do with sites."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_kit.pages import page_position, page_size, page_token
from redoma_provisioner.errors import EtagMismatch, StateConflict
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.site import MAX_DISPLAY_NAME, MAX_PRIORITY, Site, SiteState
from redoma_provisioner.trust.names import PUBLIC_SITE, site_name

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
CHANGEABLE = frozenset({"display_name", "priority"})
ATTEMPTS = 5


class SiteStore(Protocol):
    """Where sites are kept."""

    async def add_missing(self, site: Site) -> None:
        """Adds a site unless there is one of that id."""
        ...

    async def find_site(self, site: str) -> Site | None:
        """Gives a site by id."""
        ...

    async def list_sites(self, after: str | None, limit: int) -> Sequence[Site]:
        """Gives at most `limit` sites in the order of their ids, those after `after`."""
        ...

    async def change_site(self, site: Site) -> Site | None:
        """Keeps what people set in place of the version before; None if there is none any more, or it is revoked."""
        ...


class Expulsion(Protocol):
    """What takes sites out of the network, with all that lets them in."""

    async def revoke(self, site: str) -> None:
        """Revokes a site; does nothing to a revoked one. Raises ResourceNotFound."""
        ...

    async def forget(self, site: str) -> None:
        """Forgets a site that is revoked or never joined. Raises ResourceNotFound or StateConflict."""
        ...


@dataclass(frozen=True, slots=True)
class SiteChange:
    """What people want a site to be like."""

    display_name: str
    priority: int


@dataclass(frozen=True, slots=True)
class SitePage:
    """Part of the list of sites; an empty token ends it."""

    sites: Sequence[Site]
    next_page_token: str


def etag_of(version: int) -> str:
    """Gives the etag of a version."""
    return str(version)


class Sites:
    """Reads and changes sites. `wake` tells the reconciler at once, with the cause."""

    __slots__ = ("_expulsion", "_now", "_store", "_told", "_wake")

    def __init__(
        self,
        store: SiteStore,
        expulsion: Expulsion,
        wake: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._expulsion = expulsion
        self._wake = wake
        self._now = now

    async def begin(self, driver: DriverKind) -> None:
        """Makes sure that the public site itself is among the sites.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now = self._now()
        await self._store.add_missing(
            Site(PUBLIC_SITE, "", SiteState.JOINED, driver, priority=0, version=1, create_time=now, join_time=now)
        )

    async def get(self, site: str) -> Site:
        """Gives a site.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        found = await self._store.find_site(site)
        if found is None:
            raise ResourceNotFound(site_name(site))
        return found

    async def list(self, size: int, token: str) -> SitePage:
        """Gives a page of the sites by id.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        limit = page_size(size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        position = page_position(token, ("sites",), (str,))
        found = await self._store.list_sites(None if position is None else str(position[0]), limit + 1)
        more = len(found) > limit
        return SitePage(found[:limit], page_token(("sites",), (found[limit - 1].id,)) if more else "")

    async def update(self, site: str, wanted: SiteChange, names: Set[str], etag: str) -> Site:
        """Changes the fields that `names` names, and gives the site as it is then.

        Raises:
            ResourceNotFound: There is none of that id.
            InvalidField: A field can't be so.
            EtagMismatch: It is another version by now than `etag` says.
            StateConflict: It is revoked.
        """
        for _ in range(ATTEMPTS):
            former = await self.get(site)
            if etag and etag != etag_of(former.version):
                raise EtagMismatch(etag_of(former.version))
            if former.state is SiteState.REVOKED:
                raise StateConflict(f"{site_name(site)} is revoked and can't be changed.", {"state": "REVOKED"})
            changed = await self._store.change_site(_changed(former, wanted, names))
            if changed is not None:
                self._wake(f"site {site} changed")
                return changed
        raise EtagMismatch(etag_of((await self.get(site)).version))

    async def revoke(self, site: str) -> Site:
        """Revokes a site, and gives it as it is then. The reconciler cuts it off at once.

        Raises:
            ResourceNotFound: There is none of that id.
            StateConflict: It is the public site.
        """
        _check_private(site)
        await self._expulsion.revoke(site)
        self._wake(f"site {site} revoked")
        return await self.get(site)

    async def delete(self, site: str) -> None:
        """Forgets a site that is not part of the network.

        Raises:
            ResourceNotFound: There is none of that id.
            StateConflict: It may be part of the network, or it is the public site.
        """
        _check_private(site)
        await self._expulsion.forget(site)
        self._wake(f"site {site} deleted")


def _check_private(site: str) -> None:
    if site == PUBLIC_SITE:
        raise StateConflict("The public site can't be taken out of its own network.", {"state": "JOINED"})


def _changed(site: Site, wanted: SiteChange, names: Set[str]) -> Site:
    changed = replace(site, **{name: getattr(wanted, name) for name in names}, version=site.version + 1)
    if len(changed.display_name) > MAX_DISPLAY_NAME or not changed.display_name.isprintable():
        raise InvalidField("site.display_name", f"must have at most {MAX_DISPLAY_NAME} characters that can be shown.")
    if not 0 <= changed.priority <= MAX_PRIORITY:
        raise InvalidField("site.priority", f"must be from 0 to {MAX_PRIORITY}.")
    return changed
