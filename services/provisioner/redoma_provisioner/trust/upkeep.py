"""What keeps trust fresh by itself: bundles are pushed, certificates renewed, and what is over is forgotten.

Each has a `round` that a Periodic calls. Several replicas of the service may do it side by side.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from redoma_kit.errors import DomainError
from redoma_provisioner.errors import SiteUnreachable, StateConflict
from redoma_provisioner.trust.bundles import Bundles
from redoma_provisioner.trust.grants import KEPT_FOR
from redoma_provisioner.trust.record import CertificateRecord
from redoma_provisioner.trust.redemption import REPEATED_FOR
from redoma_provisioner.trust.site_channel import SiteChannel

PUSH_INTERVAL_S = 5.0
RENEWAL_INTERVAL_S = 60.0
PRUNING_INTERVAL_S = 60.0
PUSHED_AT_ONCE = 16
# What is left of a certificate's life when it is renewed.
RENEWED_WITH = 1 / 3
# Certificates are forgotten when no clock that is a little slow takes them for good any more.
EXPIRED_KEPT_FOR = timedelta(days=1)


class CertificateReader(Protocol):
    """Where certificates are kept."""

    async def good_certificates(self, now: datetime) -> Sequence[CertificateRecord]:
        """Gives the good certificates of all sites that are part of the network, those of a service by issue time."""
        ...

    async def prune_certificates(self, before: datetime) -> int:
        """Forgets certificates that expired before."""
        ...


class GrantPruner(Protocol):
    """Where grants are kept."""

    async def prune_grants(self, before: datetime, answers_before: datetime) -> None:
        """Forgets grants that could not be redeemed any more before, and answers given before `answers_before`."""
        ...


class BundlePush:
    """Gives sites the newest trust bundle. `reported` gives which one each site that answers keeps, by site."""

    __slots__ = ("_bundles", "_channel", "_log", "_reported")

    def __init__(
        self,
        channel: SiteChannel,
        bundles: Bundles,
        reported: Callable[[], Mapping[str, int]],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._channel = channel
        self._bundles = bundles
        self._reported = reported
        self._log = log

    async def round(self) -> None:
        """Gives it to those that answer and have an older one.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        newest = await self._bundles.sequence()
        slots = asyncio.Semaphore(PUSHED_AT_ONCE)
        behind = [site for site, sequence in self._reported().items() if sequence < newest]
        await asyncio.gather(*(self._push(site, slots) for site in behind))

    async def _push(self, site: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                _, bundle = await self._bundles.signed(site)
                await self._channel.apply_trust(site, bundle, ())
            except SiteUnreachable:
                self._log.info("a site could not be given its trust bundle yet", site=site)
            except DomainError as error:
                self._log.warning("a site did not take its trust bundle", site=site, problem=error.message)


class Renewal:
    """Begins to rotate certificates before they expire, of sites that `linked` names. `rotate` begins the operation."""

    __slots__ = ("_linked", "_now", "_rotate", "_store")

    def __init__(
        self,
        store: CertificateReader,
        linked: Callable[[], frozenset[str]],
        rotate: Callable[[str], Awaitable[object]],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._linked = linked
        self._rotate = rotate
        self._now = now

    async def round(self) -> None:
        """Begins it for each site that is due.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now = self._now()
        newest = {(one.site, one.service): one for one in await self._store.good_certificates(now)}
        due = {one.site for one in newest.values() if is_due(one, now)}
        for site in sorted(due & self._linked()):
            try:
                await self._rotate(site)
            except StateConflict:
                # It goes on already, or the site was revoked meanwhile.
                continue


class Pruning:
    """Forgets what is over."""

    __slots__ = ("_certificates", "_grants", "_now")

    def __init__(self, certificates: CertificateReader, grants: GrantPruner, now: Callable[[], datetime]) -> None:
        self._certificates = certificates
        self._grants = grants
        self._now = now

    async def round(self) -> None:
        """Forgets it.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now = self._now()
        await self._grants.prune_grants(now - KEPT_FOR, now - REPEATED_FOR)
        await self._certificates.prune_certificates(now - EXPIRED_KEPT_FOR)


def is_due(certificate: CertificateRecord, now: datetime) -> bool:
    """Says whether a certificate is to be renewed."""
    lifetime = certificate.expire_time - certificate.issue_time
    return certificate.expire_time - now <= lifetime * RENEWED_WITH
