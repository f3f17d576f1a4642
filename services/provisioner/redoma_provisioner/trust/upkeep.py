"""What keeps trust fresh by itself: bundles are pushed, certificates renewed, and what is over is forgotten.

Each has a `round` that a Periodic calls. Several replicas of the service may do it side by side.
"""

import asyncio
from collections import defaultdict
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
# How long after a rotation that broke off the next one is begun.
TRIED_AGAIN_AFTER = timedelta(hours=1)
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
    """Begins to rotate certificates before they expire, of sites that answer.

    `reported` gives by site when the first of its certificates expires by its own word, of those that answer; None: it
    has not said. `rotate` begins the operation.
    """

    __slots__ = ("_now", "_reported", "_rotate", "_store")

    def __init__(
        self,
        store: CertificateReader,
        reported: Callable[[], Mapping[str, datetime | None]],
        rotate: Callable[[str], Awaitable[object]],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._reported = reported
        self._rotate = rotate
        self._now = now

    async def round(self) -> None:
        """Begins it for each site that is due.

        Raises:
            StorageUnavailable: The database does not answer.
        """
        now, reported = self._now(), self._reported()
        good: defaultdict[str, list[CertificateRecord]] = defaultdict(list)
        for one in await self._store.good_certificates(now):
            good[one.site].append(one)
        for site in sorted(site for site, told in reported.items() if needs_renewal(good[site], told, now)):
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


def needs_renewal(good: Sequence[CertificateRecord], told: datetime | None, now: datetime) -> bool:
    """Says whether to renew the certificates of a site now: those that are good, by issue time, of which the first of
    those that it has expires when it `told`.

    A rotation that broke off leaves good ones that the site may never have got. The site's word counts for no others,
    so that it can't have itself renewed without end.
    """
    newest = {one.service: one for one in good}
    if any(is_due(one, now) for one in newest.values()):
        return True
    was_tried = any(now - one.issue_time < TRIED_AGAIN_AFTER for one in newest.values())
    return not was_tried and any(one.expire_time == told and is_due(one, now) for one in good)


def is_due(certificate: CertificateRecord, now: datetime) -> bool:
    """Says whether a certificate is to be renewed."""
    lifetime = certificate.expire_time - certificate.issue_time
    return certificate.expire_time - now <= lifetime * RENEWED_WITH
