"""Gives a site new certificates for new keys, without a moment in which neither the old nor the new ones are good."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from redoma_kit.errors import InvalidField
from redoma_provisioner.errors import SiteUnreachable, StateConflict
from redoma_provisioner.operations.operation import Step
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundles import Bundles
from redoma_provisioner.trust.csr import CertificateRequest, CheckedRequest, check_services, checked_requests
from redoma_provisioner.trust.names import site_name
from redoma_provisioner.trust.record import CertificateRecord
from redoma_provisioner.trust.site_channel import SiteChannel

REPORT_TIMEOUT_S = 30.0
STEPS = (
    Step("Ask the site for new keys"),
    Step("Sign the new certificates and admit them beside the old ones"),
    Step("Give the site its new certificates", cancellable=False),
    Step("Wait until the site has them", cancellable=False),
    Step("Refuse the old certificates", cancellable=False),
)


class CertificateStore(Protocol):
    """Where certificates are kept."""

    async def add_certificates(self, site: str, records: Sequence[CertificateRecord]) -> None:
        """Adds new certificates beside those there are; raises StateConflict if the site is not part of the network."""
        ...

    async def retire_others(self, site: str, kept: Iterable[str], now: datetime) -> None:
        """Retires all certificates of a site but those with the serial numbers `kept`."""
        ...


class Reports(Protocol):
    """What private sites say of themselves."""

    async def wait_for(self, site: str, expire_time: datetime, timeout_s: float) -> None:
        """Returns when the site reports that the first of its certificates expires then; raises TimeoutError."""
        ...


class Rotator:
    """Rotates certificates of sites. `settled` returns when the egress has what the certificates' records say.

    Where it breaks off, old and new certificates both stay admitted: nobody knows which the site has. The next rotation
    retires all but its own.
    """

    __slots__ = ("_authority", "_bundles", "_channel", "_log", "_now", "_reports", "_settled", "_store")

    def __init__(
        self,
        channel: SiteChannel,
        store: CertificateStore,
        authority: Authority,
        bundles: Bundles,
        reports: Reports,
        settled: Callable[[str], Awaitable[None]],
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._channel = channel
        self._store = store
        self._authority = authority
        self._bundles = bundles
        self._reports = reports
        self._settled = settled
        self._now = now
        self._log = log

    @property
    def steps(self) -> tuple[Step, ...]:
        """What it does, in order."""
        return STEPS

    async def rotate(self, site: str, begin: Callable[[int], Awaitable[None]]) -> None:
        """Rotates the certificates of a site; `begin` is awaited with the number of each step when that begins.

        Raises:
            SiteUnreachable: The site does not answer, or never said that it has its new certificates.
            StateConflict: It is not part of the network any more, or would not.
        """
        await begin(0)
        keys = _checked(site, await self._channel.create_certificate_requests(site))
        await begin(1)
        issued = [self._authority.issue(site, key) for key in keys]
        await self._store.add_certificates(site, [one.record for one in issued])
        await self._settled(f"site {site} gets new certificates")
        await begin(2)
        _, bundle = await self._bundles.signed(site)
        await self._channel.apply_trust(site, bundle, issued)
        await begin(3)
        try:
            first = min(one.record.expire_time for one in issued)
            await self._reports.wait_for(site, first, REPORT_TIMEOUT_S)
        except TimeoutError:
            raise SiteUnreachable(site) from None
        await begin(4)
        await self._store.retire_others(site, [one.record.serial for one in issued], self._now())
        await self._settled(f"site {site} has new certificates")
        self._log.info("certificates were rotated", site=site)


def _checked(site: str, requests: Sequence[CertificateRequest]) -> list[CheckedRequest]:
    try:
        check_services("certificate_requests", requests)
        return checked_requests("certificate_requests", requests)
    except InvalidField as error:
        raise StateConflict(
            f"{site_name(site)} sent certificate requests that can't be used: {error.message}", {"state": "UNUSABLE"}
        ) from None
