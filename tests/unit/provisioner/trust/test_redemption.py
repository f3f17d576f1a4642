"""How a grant lets a site join, on SQLite and on PostgreSQL."""

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from sqlalchemy import select

from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import DomainError, InvalidField, ResourceExists, ResourceNotFound
from redoma_provisioner.errors import (
    GrantExpired,
    GrantRedeemed,
    GrantRevoked,
    GrantUnknown,
    NetworkDriverUnavailable,
    StateConflict,
)
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.store.schema import CONNECTORS, LINK_GRANTS, SITES
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import verify_bundle
from redoma_provisioner.trust.grant import GrantState
from redoma_provisioner.trust.grants import GrantSettings
from tests.fakes.trust_parties import MovedClock, SiteKeys
from tests.unit.provisioner.trust.joinable import ADDRESS, JoinableSite

REDEEMERS = 20


@pytest.fixture
def public(database: Database, authority: Authority, clock: MovedClock) -> JoinableSite:
    """A public site that lets others join."""
    return JoinableSite(database, authority, clock)


async def _rows(database: Database, table: object) -> list[dict[str, object]]:
    async with database.transaction(PLATFORM) as session:
        return [dict(row) for row in (await session.execute(select(table))).mappings()]  # type: ignore[call-overload]


async def test_a_site_joins_with_certificates_of_its_own_keys_and_a_bundle(public: JoinableSite) -> None:
    keys = SiteKeys()
    admission = await public.redeem(await public.code(), keys)
    assert (admission.site, admission.link_address) == ("hospital-a", ADDRESS)
    for one in admission.certificates:
        certificate = x509.load_pem_x509_certificate(one.chain.encode())
        assert certificate.public_key() == keys.keys[one.service].public_key()
    bundle = verify_bundle(admission.trust_bundle, public.authority.certificates, "hospital-a", 1)
    assert (bundle.content.revoked, bundle.content.identity_keys) == ((), public.identity_keys)
    (site,) = await _rows(public.database, SITES)
    assert (site["state"], site["driver"]) == ("JOINED", "embedded")
    connectors = await _rows(public.database, CONNECTORS)
    assert {row["routing_key"] for row in connectors} == {"hospital-a.model-0", "hospital-a.provisioner"}
    assert public.changes == 2


@pytest.mark.parametrize("rejoin", [False, True], ids=["first", "anew"])
async def test_of_twenty_who_redeem_one_code_at_once_exactly_one_joins(public: JoinableSite, rejoin: bool) -> None:
    if rejoin:
        await public.join()
    code = await public.code(rejoin=rejoin)
    outcomes = await asyncio.gather(
        *(public.redeem(code, SiteKeys()) for _ in range(REDEEMERS)), return_exceptions=True
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(lost) == REDEEMERS - 1
    assert all(isinstance(outcome, GrantRedeemed) for outcome in lost), lost
    good = await public.certificates.good_certificates(public.clock(), "hospital-a")
    assert len(good) == 4


async def test_a_lost_answer_is_given_again_for_a_minute_to_the_same_keys_alone(public: JoinableSite) -> None:
    code, keys = await public.code(), SiteKeys()
    first = await public.redeem(code, keys)
    again = await public.redeem(code, keys)
    assert again.certificates == first.certificates
    with pytest.raises(GrantRedeemed):
        await public.redeem(code, SiteKeys())
    public.clock.moved = timedelta(seconds=61)
    with pytest.raises(GrantRedeemed):
        await public.redeem(code, keys)


async def test_the_same_keys_at_the_same_time_get_the_same_certificates(public: JoinableSite) -> None:
    code, keys = await public.code(), SiteKeys()
    admissions = await asyncio.gather(*(public.redeem(code, keys) for _ in range(4)))
    assert len({admission.certificates for admission in admissions}) == 1
    assert len(await public.certificates.good_certificates(public.clock())) == 4


async def test_a_code_that_is_unknown_expired_or_revoked_says_which(public: JoinableSite) -> None:
    with pytest.raises(GrantUnknown):
        await public.redeem("x" * 43, SiteKeys())
    grant, _ = await public.grants.create(GrantSettings("hospital-b"), "me")
    code = await public.code("hospital-c")
    revoked = await public.code("hospital-b")
    (newest,) = (await public.grants.list(1, "")).grants
    assert (await public.grants.revoke(newest.id)).state(public.clock()) is GrantState.REVOKED
    with pytest.raises(GrantRevoked):
        await public.redeem(revoked, SiteKeys())
    public.clock.moved = timedelta(minutes=15)
    with pytest.raises(GrantExpired):
        await public.redeem(code, SiteKeys())
    assert (await public.grants.revoke(grant.id)).state(public.clock()) is GrantState.REVOKED


async def test_a_newer_grant_takes_the_place_of_the_active_one(public: JoinableSite) -> None:
    former = await public.code()
    newer = await public.code()
    with pytest.raises(GrantRevoked):
        await public.redeem(former, SiteKeys())
    assert (await public.redeem(newer, SiteKeys())).site == "hospital-a"


async def test_a_joined_site_joins_anew_only_when_asked_and_its_former_certificates_end(public: JoinableSite) -> None:
    await public.join()
    former = {one.fingerprint for one in await public.certificates.good_certificates(public.clock())}
    with pytest.raises(ResourceExists):
        await public.code()
    code = await public.code(rejoin=True)
    still = {one.fingerprint for one in await public.certificates.good_certificates(public.clock())}
    assert still == former
    admission = await public.redeem(code, SiteKeys())
    now_good = {one.fingerprint for one in await public.certificates.good_certificates(public.clock())}
    assert len(now_good) == 4 and not now_good & former
    bundle = verify_bundle(admission.trust_bundle, public.authority.certificates, "hospital-a", 1)
    assert len(bundle.content.revoked) == 4


async def test_a_grant_that_could_not_be_used_is_left_for_another_attempt(public: JoinableSite) -> None:
    code, keys = await public.code(), SiteKeys()
    with pytest.raises(InvalidField):
        await public.redeem(code, SiteKeys(dict.fromkeys(keys.keys, keys.keys["model"])))
    invite, public.redeemer._invite = public.redeemer._invite, _no_driver
    with pytest.raises(NetworkDriverUnavailable):
        await public.redeem(code, keys)
    public.redeemer._invite = invite
    assert (await public.redeem(code, keys)).site == "hospital-a"


async def _no_driver(driver: DriverKind, site: str, ttl_s: float) -> str:
    raise NetworkDriverUnavailable(driver, "Skupper does not answer.")


async def test_a_revoked_site_is_refused_in_every_way_and_again(public: JoinableSite) -> None:
    keys, code = SiteKeys(), await public.code()
    await public.redeem(code, keys)
    before, _ = await public.bundles.signed("hospital-b")
    assert await public.trust.revoke_site("hospital-a", public.bundles.content, public.clock())
    assert not await public.trust.revoke_site("hospital-a", public.bundles.content, public.clock())
    with pytest.raises(GrantRevoked):
        await public.redeem(code, keys)
    with pytest.raises(StateConflict):
        await public.code(rejoin=True)
    assert not await public.certificates.good_certificates(public.clock())
    sequence, bundle = await public.bundles.signed("hospital-b")
    assert sequence == before + 1
    assert len(verify_bundle(bundle, public.authority.certificates, "hospital-b", 1).content.revoked) == 4
    with pytest.raises(ResourceNotFound):
        await public.trust.revoke_site("hospital-z", public.bundles.content, public.clock())


async def test_a_grant_of_a_site_that_is_revoked_meanwhile_lets_nobody_in(public: JoinableSite) -> None:
    await public.join()
    code = await public.code(rejoin=True)
    await public.trust.revoke_site("hospital-a", public.bundles.content, public.clock())
    with pytest.raises(GrantRevoked):
        await public.redeem(code, SiteKeys())
    newest = (await public.grants.list(1, "")).grants[0]
    assert newest.state(public.clock()) is GrantState.REVOKED


async def test_a_forgotten_site_gives_its_id_away_but_its_certificates_stay_refused(public: JoinableSite) -> None:
    await public.join()
    with pytest.raises(StateConflict):
        await public.trust.forget_site("hospital-a")
    await public.trust.revoke_site("hospital-a", public.bundles.content, public.clock())
    await public.trust.forget_site("hospital-a")
    assert await _rows(public.database, LINK_GRANTS) == await _rows(public.database, SITES) == []
    admission = await public.join()
    bundle = verify_bundle(admission.trust_bundle, public.authority.certificates, "hospital-a", 1)
    assert len(bundle.content.revoked) == 4
    assert len(await public.certificates.good_certificates(public.clock())) == 4


async def test_the_sequence_grows_with_the_content_alone_and_replicas_agree(public: JoinableSite) -> None:
    other = JoinableSite(public.database, public.authority, public.clock, public.identity_keys)
    sequences = await asyncio.gather(*(one.bundles.sequence() for one in [public, other] * 5))
    assert set(sequences) == {1}
    public.identity_keys = other.identity_keys = {"keys": [{"kid": "two"}]}
    sequences = await asyncio.gather(*(one.bundles.sequence() for one in [public, other] * 5))
    assert set(sequences) == {2}


async def test_a_certificate_that_expired_leaves_the_list_of_refused_ones(public: JoinableSite) -> None:
    await public.join()
    await public.join(rejoin=True)
    before = await public.bundles.sequence()
    public.clock.moved = timedelta(days=31)
    sequence, bundle = await public.bundles.signed("hospital-a")
    assert sequence == before + 1
    assert verify_bundle(bundle, public.authority.certificates, "hospital-a", 1).content.revoked == ()
    assert await public.certificates.prune_certificates(public.clock()) == 8


async def test_nothing_that_is_kept_tells_the_code(public: JoinableSite) -> None:
    code = await public.code()
    await public.redeem(code, SiteKeys())
    assert code not in repr([await _rows(public.database, table) for table in (LINK_GRANTS, SITES, CONNECTORS)])


async def test_lists_go_on_where_the_page_ended(public: JoinableSite) -> None:
    made = [(await public.grants.create(GrantSettings(f"site-{number}"), "me"))[0].id for number in range(5)]
    listed: list[str] = []
    token = ""
    while True:
        page = await public.grants.list(2, token)
        listed += [grant.id for grant in page.grants]
        token = page.next_page_token
        if not token:
            break
    assert sorted(listed) == sorted(made)


async def test_old_grants_and_answers_are_forgotten(public: JoinableSite) -> None:
    code, keys = await public.code(), SiteKeys()
    await public.redeem(code, keys)
    await public.code("hospital-b")
    store = public.redeemer._store
    now = public.clock()
    await store.prune_grants(now - timedelta(days=30), now + timedelta(seconds=1))  # type: ignore[attr-defined]
    with pytest.raises(GrantRedeemed):
        await public.redeem(code, keys)
    later = now + timedelta(days=31)
    await store.prune_grants(later, later)  # type: ignore[attr-defined]
    assert await _rows(public.database, LINK_GRANTS) == []


@pytest.mark.parametrize("site", ["", "public", "A", "a" * 41, "a.b", "-a", "a-", "ä"])
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
async def test_an_id_that_no_certificate_may_carry_is_refused(public: JoinableSite, site: str) -> None:
    with pytest.raises(DomainError):
        await public.code(site)


@pytest.mark.parametrize("ttl", [timedelta(seconds=59), timedelta(days=7, seconds=1), timedelta(-1)])
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
async def test_a_grant_lasts_from_a_minute_to_a_week(public: JoinableSite, ttl: timedelta) -> None:
    with pytest.raises(InvalidField):
        await public.grants.create(GrantSettings("hospital-a", ttl=ttl), "me")
