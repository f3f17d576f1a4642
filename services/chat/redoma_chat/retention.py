"""Deletes conversations that are older than their tenant keeps them. Any number of replicas may do so at once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from redoma_chat.content import Erased
from redoma_chat.content_storage import ContentPolicy, ContentStorage
from redoma_chat.errors import ChecksUnavailable
from redoma_chat.measurements import ContentMeasurements


class PolicySource(Protocol):
    """Where the tenants' policies are kept."""

    def content_policies(self) -> AsyncIterator[ContentPolicy]:
        """Gives every tenant's.

        Raises:
            ChecksUnavailable: They can't be had.
        """
        ...


class ExpiringStore(Protocol):
    """Where conversations are kept. Every method may raise StorageUnavailable."""

    def usable_storages(self) -> Sequence[ContentStorage]:
        """Gives the places that answer."""
        ...

    async def expire_conversations(self, storage: ContentStorage, tenant: str, before_us: int) -> Erased:
        """Deletes a batch of conversations not changed since a time, save those where an answer streams."""
        ...


class Retention:
    """Holds every tenant's conversations to their age."""

    def __init__(
        self,
        policies: PolicySource,
        store: ExpiringStore,
        scrub: Callable[[], Awaitable[None]],
        now_us: Callable[[], int],
        measurements: ContentMeasurements,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._policies = policies
        self._store = store
        self._scrub = scrub
        self._now_us = now_us
        self._measurements = measurements
        self._log = log

    async def sweep(self) -> None:
        """Deletes what is too old now, in batches. A tenant service that is away is asked next time."""
        deleted = Erased()
        try:
            async for policy in self._policies.content_policies():
                if policy.retention_s is not None:
                    deleted += await self._expire(policy.tenant, self._now_us() - int(policy.retention_s * 1_000_000))
        except ChecksUnavailable:
            self._log.warning("retention skipped", cause="the tenant service does not answer")
        if deleted != Erased():
            await self._scrub()

    async def _expire(self, tenant: str, before_us: int) -> Erased:
        deleted = Erased()
        for storage in self._store.usable_storages():
            while (some := await self._store.expire_conversations(storage, tenant, before_us)) != Erased():
                deleted += some
                self._measurements.expired(some.conversations)
        if deleted != Erased():
            self._log.info(
                "conversations expired", tenant=tenant, conversations=deleted.conversations, messages=deleted.messages
            )
        return deleted
