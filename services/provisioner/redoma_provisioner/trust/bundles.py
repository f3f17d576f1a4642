"""Makes each site's trust bundle from what the database and the identity keys say at that moment."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import KeySet, TrustBundle, TrustContent, authorities_pem, sign_bundle

# Makes what all sites trust from the serial numbers that are refused.
MakeContent = Callable[[Sequence[str]], TrustContent]


class SequenceStore(Protocol):
    """Where the sequence number of trust bundles is kept."""

    async def renew(self, make: MakeContent, now: datetime) -> tuple[int, TrustContent]:
        """Gives what all sites trust and its number, which grows if the content is other than the last."""
        ...


class Bundles:
    """Gives trust bundles. Replicas that read the same keys of identities give the same ones."""

    __slots__ = ("_authority", "_identity_keys", "_now", "_store")

    def __init__(
        self,
        authority: Authority,
        identity_keys: Callable[[], KeySet],
        store: SequenceStore,
        now: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._identity_keys = identity_keys
        self._store = store
        self._now = now

    def content(self, revoked: Sequence[str]) -> TrustContent:
        """Makes what all sites trust, `revoked` being the serial numbers that are refused."""
        return TrustContent(authorities_pem(self._authority), self._identity_keys(), tuple(sorted(revoked)))

    async def sequence(self) -> int:
        """Gives the number of the bundle as it is at this moment.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        return (await self._store.renew(self.content, self._now()))[0]

    async def signed(self, site: str) -> tuple[int, str]:
        """Gives the number of a site's bundle as it is at this moment, and the bundle.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now = self._now()
        sequence, content = await self._store.renew(self.content, now)
        return sequence, sign_bundle(self._authority, TrustBundle(sequence, site, content, now))
