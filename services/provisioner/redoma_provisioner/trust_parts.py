"""Puts the public site's side of trust together."""

from collections.abc import Callable
from datetime import datetime

import structlog

from redoma_kit.database import Database
from redoma_kit.periodic import Periodic
from redoma_provisioner.network.driver import DriverKind, NetworkDriver
from redoma_provisioner.network.rotations import Rotations
from redoma_provisioner.network_parts import NetworkParts
from redoma_provisioner.servicers.link_grants import LinkGrantServicer
from redoma_provisioner.settings import AuthoritySettings
from redoma_provisioner.store.certificates import SqlCertificateStore
from redoma_provisioner.store.grants import SqlGrantStore
from redoma_provisioner.store.trust import SqlTrustStore
from redoma_provisioner.trust.authority import load_authority
from redoma_provisioner.trust.bundles import Bundles
from redoma_provisioner.trust.certificate_reports import CertificateReports
from redoma_provisioner.trust.grants import Grants
from redoma_provisioner.trust.identity_keys import IdentityKeys
from redoma_provisioner.trust.invitations import Invitations
from redoma_provisioner.trust.redemption import Redeemer
from redoma_provisioner.trust.revocation import Revocation
from redoma_provisioner.trust.rotation import Rotator
from redoma_provisioner.trust.upkeep import (
    PRUNING_INTERVAL_S,
    PUSH_INTERVAL_S,
    RENEWAL_INTERVAL_S,
    BundlePush,
    Pruning,
    Renewal,
)
from redoma_provisioner.trust.wrong_codes import WrongCodes

# Who begins a rotation that nobody asked for.
UPKEEP = "platform/provisioner"


class TrustParts:
    """The authority, grants, and what keeps trust fresh. `connect` it with the network before `start`.

    Attributes:
        bundles: Trust bundles.
        revocation: What takes sites out of the network.
        reports: What private sites say of their certificates.

    Raises:
        CannotStart: The authority, or the keys of identities, can't be used.
    """

    def __init__(
        self,
        database: Database,
        settings: AuthoritySettings,
        keys: IdentityKeys,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._database = database
        self._now = now
        self._monotonic = monotonic
        self._log = log
        self._authority = load_authority(settings.cert_file, settings.key_file, settings.certificate_lifetime_s, now)
        self._work: tuple[Periodic, ...] = ()
        self._on_change: Callable[[], None] = _nobody
        store = SqlTrustStore(database)
        self.bundles = Bundles(self._authority, keys.current, store, now)
        self.revocation = Revocation(store, self.bundles, now, lambda: self._on_change())

    def rotator(self, network: NetworkParts) -> Rotator:
        """Gives what rotates the certificates of sites."""

        def expiry_of(site: str) -> datetime | None:
            report = network.standings.of(site).report
            return None if report is None else report.certificate_expire_time

        reports = CertificateReports(expiry_of)
        network.standings.on_change(reports.note)
        return Rotator(
            network.channel,
            SqlCertificateStore(self._database),
            self._authority,
            self.bundles,
            reports,
            network.reconciler.settled,
            self._now,
            self._log,
        )

    def connect(self, network: NetworkParts, rotations: Rotations) -> None:
        """Prepares what keeps trust fresh: it pushes bundles, renews certificates, and forgets what is over."""
        standings = network.standings

        def reported() -> dict[str, int]:
            reports = {site: standings.of(site).report for site in standings.linked}
            return {site: report.trust_sequence for site, report in reports.items() if report is not None}

        def expiries() -> dict[str, datetime | None]:
            reports = {site: standings.of(site).report for site in standings.linked}
            return {
                site: None if report is None else report.certificate_expire_time for site, report in reports.items()
            }

        async def rotate(site: str) -> object:
            return await rotations.begin(await network.sites.get(site), UPKEEP)

        certificates = SqlCertificateStore(self._database)
        push = BundlePush(network.channel, self.bundles, reported, self._log)
        renewal = Renewal(certificates, expiries, rotate, self._now)
        pruning = Pruning(certificates, SqlGrantStore(self._database), self._now)
        pushing = Periodic("trust bundles", PUSH_INTERVAL_S, push.round, self._log)
        self._work = (
            pushing,
            Periodic("renewal of certificates", RENEWAL_INTERVAL_S, renewal.round, self._log),
            Periodic("pruning of grants", PRUNING_INTERVAL_S, pruning.round, self._log),
        )

        def changed() -> None:
            network.reconciler.wake("trust changed")
            pushing.wake()

        self._on_change = changed

    def grants(self, driver: DriverKind, address: str) -> Grants:
        """Gives what makes grants, whose tokens name `address`."""
        return Grants(
            SqlGrantStore(self._database),
            address,
            self._authority.digest,
            driver,
            self._now,
            lambda: self._on_change(),
        )

    def servicer(self, driver: NetworkDriver, address: str) -> LinkGrantServicer:
        """Gives the part of NetworkService that lets sites join."""
        redeemer = Redeemer(
            SqlGrantStore(self._database),
            self._authority,
            self.bundles,
            address,
            Invitations(driver).invite,
            WrongCodes(self._monotonic),
            self._now,
            lambda: self._on_change(),
        )
        return LinkGrantServicer(self.grants(driver.kind, address), redeemer, self._now)

    def start(self) -> None:
        """Begins to keep trust fresh."""
        for work in self._work:
            work.start()

    async def stop(self) -> None:
        """Ends that."""
        for work in self._work:
            await work.stop()


def _nobody() -> None:
    """Stands for a listener that is not there yet."""
