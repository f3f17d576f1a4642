"""The tenants' content keys, as they are used: unwrapped, for one transaction, and in a cache that soon forgets.

Every transaction that reads or writes texts reads the wrapped keys of its tenant first. So a key that was destroyed is
of no use to anyone from then on, in no process, whatever lies in a cache.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from redoma_chat.encryption import (
    KEY_BYTES,
    PLAIN_VERSION,
    Cell,
    ContentKey,
    UnsealFailed,
    is_sealed,
    sealed_version,
)
from redoma_chat.errors import ContentUnreadable
from redoma_chat.key_provider import KeyProvider, UnwrapFailed, WrappedKey

FRESH_S = 30.0
MAX_KEYS = 4_096


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A version of a tenant's content key as it lies in the database."""

    tenant: str
    version: int
    wrapped: WrappedKey


class TenantKeys:
    """What seals and unseals the texts of one tenant within one transaction."""

    __slots__ = ("_by_version", "_log")

    def __init__(self, by_version: Mapping[int, ContentKey | None], log: structlog.stdlib.BoundLogger) -> None:
        self._by_version = by_version
        self._log = log

    @property
    def version(self) -> int:
        """The version that seals; PLAIN_VERSION where there is no key."""
        return max(self._by_version, default=PLAIN_VERSION)

    def seal(self, cell: Cell, text: str) -> bytes:
        """Encrypts a text for its place.

        Raises:
            ContentUnreadable: The key that seals can't be unwrapped.
        """
        key = self._by_version.get(self.version)
        if key is None:
            raise self._unreadable(cell, self.version)
        return key.seal(cell, text)

    def unseal(self, cell: Cell, kept: bytes) -> str:
        """Decrypts what is kept in a place; a text that was never encrypted is given as it is.

        Raises:
            ContentUnreadable: It is damaged, or its key is not to be had.
        """
        if not is_sealed(kept):
            return kept.decode()
        version = PLAIN_VERSION
        try:
            version = sealed_version(kept)
            key = self._by_version.get(version)
            if key is None:
                raise UnsealFailed()
            return key.unseal(cell, kept)
        except UnsealFailed:
            raise self._unreadable(cell, version) from None

    def _unreadable(self, cell: Cell, version: int) -> ContentUnreadable:
        self._log.error(
            "content unreadable",
            tenant=cell.tenant,
            table=cell.table,
            row=cell.row_id,
            column=cell.column,
            key_version=version,
        )
        return ContentUnreadable(f"tenants/{cell.tenant}/{cell.table}/{cell.row_id}")


class ContentKeys:
    """Makes, wraps and unwraps content keys. What was unwrapped is kept FRESH_S seconds, of MAX_KEYS keys at most."""

    def __init__(self, provider: KeyProvider, clock: Callable[[], float], log: structlog.stdlib.BoundLogger) -> None:
        self._provider = provider
        self._clock = clock
        self._log = log
        self._known: OrderedDict[KeptKey, tuple[float, ContentKey | None]] = OrderedDict()

    @property
    def key_id(self) -> str:
        """The id of the key that wraps now."""
        return self._provider.key_id

    async def make(self, tenant: str, version: int) -> KeptKey:
        """Makes a content key, wrapped.

        Raises:
            StorageUnavailable: The key provider does not answer.
        """
        wrapped = await self._provider.wrap(os.urandom(KEY_BYTES), _context(tenant, version))
        return KeptKey(tenant, version, wrapped)

    async def wrapped_anew(self, kept: KeptKey) -> KeptKey | None:
        """Gives the same key wrapped by the key that wraps now; None if it can't be unwrapped.

        Raises:
            StorageUnavailable: The key provider does not answer.
        """
        context = _context(kept.tenant, kept.version)
        try:
            secret = await self._provider.unwrap(kept.wrapped, context)
        except UnwrapFailed:
            return None
        return KeptKey(kept.tenant, kept.version, await self._provider.wrap(secret, context))

    async def unwrapped(self, kept: Sequence[KeptKey]) -> TenantKeys:
        """Gives the keys of a tenant, ready for use. One that can't be unwrapped fails when it is used.

        Raises:
            StorageUnavailable: The key provider does not answer.
        """
        return TenantKeys({key.version: await self._unwrapped(key) for key in kept}, self._log)

    async def _unwrapped(self, kept: KeptKey) -> ContentKey | None:
        now = self._clock()
        while self._known and now - next(iter(self._known.values()))[0] >= FRESH_S:
            self._known.popitem(last=False)
        known = self._known.get(kept)
        if known is not None:
            return known[1]
        key: ContentKey | None = None
        try:
            secret = await self._provider.unwrap(kept.wrapped, _context(kept.tenant, kept.version))
            key = ContentKey(kept.version, secret)
        except UnwrapFailed as failure:
            self._log.error(
                "content key can't be unwrapped",
                tenant=kept.tenant,
                key_version=kept.version,
                wrapped_by=kept.wrapped.key_id,
                cause=str(failure),
            )
        self._known[kept] = (now, key)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        return key

    def forget(self, tenant: str) -> None:
        """Drops what is known of a tenant's keys."""
        for kept in [kept for kept in self._known if kept.tenant == tenant]:
            del self._known[kept]


def _context(tenant: str, version: int) -> bytes:
    return b"redoma content key\0" + tenant.encode() + b"\0" + version.to_bytes(4, "big")
