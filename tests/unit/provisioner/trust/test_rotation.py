"""New certificates for a site, pushes and renewals, with the site's own side of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509

from redoma_kit.database import Database
from redoma_kit.errors import InvalidField
from redoma_kit.join_token import JoinToken
from redoma_provisioner.errors import SiteUnreachable, StateConflict
from redoma_provisioner.trust.authority import Authority, fingerprint
from redoma_provisioner.trust.certificate_reports import CertificateReports
from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.joining import Joining
from redoma_provisioner.trust.keeper import TrustKeeper
from redoma_provisioner.trust.membership_files import MembershipFiles
from redoma_provisioner.trust.record import IssuedCertificate
from redoma_provisioner.trust.revocation import Revocation
from redoma_provisioner.trust.rotation import STEPS, Rotator
from redoma_provisioner.trust.upkeep import BundlePush, Pruning, Renewal
from tests.fakes.trust_parties import MovedClock
from tests.unit.provisioner.trust.direct_channel import DirectChannel
from tests.unit.provisioner.trust.joinable import ADDRESS, EXPOSED, JoinableSite

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
SITE = "hospital-a"


async def _gateways(public: JoinableSite) -> frozenset[str]:
    """Gives the fingerprints of what the site's gateway may show."""
    good = await public.certificates.good_certificates(public.clock(), SITE)
    return frozenset(one.fingerprint for one in good if one.service == "gateway")


@dataclass
class LinkedSite:
    """A site that has joined, and the network between it and the public one."""

    public: JoinableSite
    keeper: TrustKeeper
    away: bool = False
    is_answer_lost: bool = False
    is_mute: bool = False
    pinned: list[frozenset[str]] = field(default_factory=list)
    applied: int = 0

    def __post_init__(self) -> None:
        self.reports = CertificateReports(lambda site: self.reported)
        self.reported: datetime | None = self.keeper.kept.certificate_expire_time

    async def create_certificate_requests(self, site: str) -> Sequence[CertificateRequest]:
        """See SiteChannel."""
        if self.away:
            raise SiteUnreachable(site)
        return self.keeper.requests()

    async def apply_trust(self, site: str, trust_bundle: str, certificates: Sequence[IssuedCertificate]) -> int:
        """See SiteChannel."""
        if self.away:
            raise SiteUnreachable(site)
        try:
            sequence = self.keeper.apply(trust_bundle, {one.record.service: one.chain for one in certificates})
        except InvalidField as error:
            raise StateConflict(error.message) from None
        self.applied += 1
        if self.is_answer_lost:
            raise SiteUnreachable(site)
        if not self.is_mute:
            self.reported = self.keeper.kept.certificate_expire_time
            self.reports.note(site)
        return sequence

    async def settled(self, cause: str) -> None:
        """Notes what the egress lets in from then on."""
        fingerprints = await _gateways(self.public)
        self.pinned.append(fingerprints)

    def rotator(self, reports: "CertificateReports | Impatient | None" = None) -> Rotator:
        """Gives what rotates its certificates."""
        public = self.public
        return Rotator(
            self,
            public.certificates,
            public.authority,
            public.bundles,
            reports or self.reports,
            self.settled,
            public.clock,
            LOG,
        )

    def shown(self) -> str:
        """Gives the fingerprint of what its gateway shows."""
        certificate = x509.load_pem_x509_certificate((self.keeper._files.current / "gateway" / "tls.crt").read_bytes())
        return fingerprint(certificate)


class Impatient:
    """Never hears of new certificates."""

    async def wait_for(self, site: str, expire_time: datetime, timeout_s: float) -> None:
        """Gives up at once."""
        raise TimeoutError


@pytest.fixture
async def linked(database: Database, authority: Authority, clock: MovedClock, tmp_path: Path) -> LinkedSite:
    """A site that has joined."""
    public = JoinableSite(database, authority, clock)
    folder = tmp_path / "membership"
    token = JoinToken(ADDRESS, authority.digest, await public.code()).text
    assert await Joining(folder, EXPOSED, DirectChannel(public), clock, lambda line: None).join(token)
    return LinkedSite(public, TrustKeeper(MembershipFiles(folder), clock))


async def _no_step(number: int) -> None:
    """Goes on."""


def _ending_at(last: int) -> Callable[[int], Awaitable[None]]:
    async def begin(number: int) -> None:
        if number == last:
            raise asyncio.CancelledError

    return begin


async def test_at_every_step_the_certificate_that_the_site_shows_is_let_in(linked: LinkedSite) -> None:
    old = linked.shown()
    begun: list[int] = []

    async def begin(number: int) -> None:
        begun.append(number)
        fingerprints = await _gateways(linked.public)
        assert linked.shown() in fingerprints

    await linked.rotator().rotate(SITE, begin)
    new = linked.shown()
    assert begun == list(range(len(STEPS)))
    assert new != old
    assert linked.pinned == [frozenset({old, new}), frozenset({new})]


async def test_old_certificates_are_refused_by_all_sites_afterwards(linked: LinkedSite) -> None:
    before = await linked.public.bundles.sequence()
    await linked.rotator().rotate(SITE, _no_step)
    assert await linked.public.bundles.sequence() == before + 1
    good = await linked.public.certificates.good_certificates(linked.public.clock(), SITE)
    assert [one.service for one in good] == ["gateway", "model", "provisioner", "supervisor"]


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("last", range(len(STEPS)))
async def test_broken_off_at_any_step_the_site_stays_let_in_and_a_second_rotation_ends_it(
    linked: LinkedSite, last: int
) -> None:
    with pytest.raises(asyncio.CancelledError):
        await linked.rotator().rotate(SITE, _ending_at(last))
    fingerprints = await _gateways(linked.public)
    assert linked.shown() in fingerprints
    await linked.rotator().rotate(SITE, _no_step)
    fingerprints = await _gateways(linked.public)
    assert fingerprints == {linked.shown()}


async def test_a_lost_answer_leaves_both_certificates_let_in(linked: LinkedSite) -> None:
    old = linked.shown()
    linked.is_answer_lost = True
    with pytest.raises(SiteUnreachable):
        await linked.rotator().rotate(SITE, _no_step)
    fingerprints = await _gateways(linked.public)
    assert fingerprints == {old, linked.shown()}


async def test_a_site_that_never_reports_its_new_certificates_keeps_the_old_ones_too(linked: LinkedSite) -> None:
    old = linked.shown()
    with pytest.raises(SiteUnreachable):
        await linked.rotator(Impatient()).rotate(SITE, _no_step)
    fingerprints = await _gateways(linked.public)
    assert old in fingerprints


async def test_a_revoked_site_gets_no_certificates(linked: LinkedSite) -> None:
    public = linked.public
    heard: list[None] = []
    revocation = Revocation(public.trust, public.bundles, public.clock, lambda: heard.append(None))
    await revocation.revoke(SITE)
    await revocation.revoke(SITE)
    assert len(heard) == 1
    with pytest.raises(StateConflict):
        await linked.rotator().rotate(SITE, _no_step)
    assert await _gateways(public) == frozenset()
    await revocation.forget(SITE)


async def test_reports_wait_for_the_very_time_and_no_longer_than_asked() -> None:
    told: datetime | None = None
    reports = CertificateReports(lambda site: told)
    wanted = datetime.now()
    waiting = asyncio.ensure_future(reports.wait_for(SITE, wanted, 30.0))
    await asyncio.sleep(0)
    reports.note(SITE)
    await asyncio.sleep(0)
    assert not waiting.done()
    told = wanted
    reports.note(SITE)
    await waiting
    with pytest.raises(TimeoutError):
        await reports.wait_for(SITE, wanted + timedelta(1), 0.0)


async def test_a_bundle_goes_to_sites_that_are_behind_alone(linked: LinkedSite) -> None:
    public = linked.public
    sequences = {SITE: linked.keeper.kept.sequence}
    push = BundlePush(linked, public.bundles, lambda: sequences, LOG)
    await push.round()
    assert linked.applied == 0
    public.identity_keys = {"keys": [{"kid": "next"}]}
    linked.away = True
    await push.round()
    linked.away = False
    await push.round()
    assert (linked.applied, linked.keeper.kept.sequence) == (1, 2)
    sequences[SITE] = linked.keeper.kept.sequence
    await push.round()
    assert linked.applied == 1


async def test_certificates_are_renewed_when_a_third_of_their_life_is_left(linked: LinkedSite) -> None:
    public = linked.public
    begun: list[str] = []
    answering: dict[str, datetime | None] = {SITE: linked.reported}

    async def rotate(site: str) -> None:
        begun.append(site)
        await linked.rotator().rotate(site, _no_step)

    renewal = Renewal(public.certificates, lambda: answering, rotate, public.clock)
    public.clock.moved = timedelta(days=19, hours=23)
    await renewal.round()
    assert begun == []
    public.clock.moved = timedelta(days=20, minutes=1)
    answering = {}
    await renewal.round()
    assert begun == []
    answering = {SITE: linked.reported}
    await renewal.round()
    await renewal.round()
    assert begun == [SITE]


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
async def test_a_renewal_that_goes_on_already_is_left_alone(linked: LinkedSite) -> None:
    async def refuse(site: str) -> None:
        raise StateConflict("it goes on")

    linked.public.clock.moved = timedelta(days=25)
    await Renewal(linked.public.certificates, lambda: {SITE: linked.reported}, refuse, linked.public.clock).round()


async def test_a_rotation_that_broke_off_does_not_keep_a_site_from_being_renewed(linked: LinkedSite) -> None:
    public = linked.public
    begun: list[timedelta] = []

    async def break_off(step: int) -> None:
        linked.away = linked.away or (step == 2 and len(begun) < 2)

    async def rotate(site: str) -> None:
        begun.append(public.clock.moved)
        linked.away = False
        with contextlib.suppress(SiteUnreachable):
            await linked.rotator().rotate(site, break_off)

    async def renew_at(moved: timedelta) -> None:
        public.clock.moved = moved
        await Renewal(public.certificates, lambda: {SITE: linked.reported}, rotate, public.clock).round()

    first_day, due = timedelta(days=1), timedelta(days=20, minutes=1)
    public.clock.moved = first_day
    with pytest.raises(SiteUnreachable):
        await linked.rotator().rotate(SITE, break_off)
    await renew_at(first_day + timedelta(hours=2))
    assert begun == [], "it has what it joined with"
    await renew_at(due)
    assert begun == [due], "what it has is due, whatever was made for it later"
    await renew_at(due + timedelta(minutes=1))
    assert begun == [due], "not again and again"
    await renew_at(due + timedelta(hours=2))
    assert linked.reported is not None and linked.reported > public.clock() + timedelta(days=29)
    await renew_at(due + timedelta(hours=4))
    assert len(begun) == 2


async def test_a_site_that_lies_about_its_certificates_is_not_renewed_without_end(linked: LinkedSite) -> None:
    public = linked.public
    begun: list[str] = []

    async def rotate(site: str) -> None:
        begun.append(site)

    for told in (public.clock(), public.clock() + timedelta(days=3), datetime.min.replace(tzinfo=UTC)):
        await Renewal(public.certificates, lambda told=told: {SITE: told}, rotate, public.clock).round()  # type: ignore[misc]
    assert begun == []


async def test_what_is_over_is_forgotten(linked: LinkedSite) -> None:
    public = linked.public
    pruning = Pruning(public.certificates, public.redeemer._store, public.clock)  # type: ignore[arg-type]
    await pruning.round()
    assert (await public.grants.list(10, "")).grants
    assert await public.certificates.good_certificates(public.clock())
    public.clock.moved = timedelta(days=32)
    await pruning.round()
    assert not (await public.grants.list(10, "")).grants
    assert await public.certificates.prune_certificates(public.clock()) == 0
