"""Takes sites out of the network, with all that lets them in."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from redoma_provisioner.trust.bundles import Bundles, MakeContent


class RevocationStore(Protocol):
    """Where sites, grants, certificates and the sequence of trust bundles are kept."""

    async def revoke_site(self, site: str, make: MakeContent, now: datetime) -> bool:
        """Revokes a site, its grants and its certificates, and renews the sequence; False if it was revoked already."""
        ...

    async def forget_site(self, site: str) -> None:
        """Forgets a site that is revoked or never joined; its certificates stay refused."""
        ...


class Revocation:
    """Revokes and forgets sites. `changed` is told when trust has changed, so that the other sites hear of it."""

    __slots__ = ("_bundles", "_changed", "_now", "_store")

    def __init__(
        self,
        store: RevocationStore,
        bundles: Bundles,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._now = now
        self._changed = changed

    async def revoke(self, site: str) -> None:
        """Revokes a site for good, all at once; does nothing to a revoked one.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        if await self._store.revoke_site(site, self._bundles.content, self._now()):
            self._changed()

    async def forget(self, site: str) -> None:
        """Forgets a site, whose certificates stay refused until they expire.

        Raises:
            ResourceNotFound: There is none of that id.
            StateConflict: It may be part of the network.
        """
        await self._store.forget_site(site)
