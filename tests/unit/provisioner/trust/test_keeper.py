"""A private site's side of trust."""

import shutil
from pathlib import Path

import pytest
from cryptography import x509

from redoma_kit.errors import InvalidField
from redoma_provisioner.errors import CannotStart, StateConflict
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import TrustBundle, TrustContent, sign_bundle
from redoma_provisioner.trust.membership_files import MembershipFiles
from tests.fakes.trust_parties import MovedClock, SiteKeys, make_authority
from tests.unit.provisioner.trust.private_site import (
    LINK_ADDRESS,
    PrivateSite,
    chains_for,
    joined_set,
    signed_bundle,
)


@pytest.fixture
def site(tmp_path: Path, authority: Authority, clock: MovedClock) -> PrivateSite:
    """A site that has joined."""
    return PrivateSite(tmp_path / "membership", authority, clock)


def test_a_site_that_has_not_joined_says_what_to_do(tmp_path: Path, clock: MovedClock) -> None:
    with pytest.raises(CannotStart, match="redoma van join"):
        site = PrivateSite.__new__(PrivateSite)
        site.files, site.clock = MembershipFiles(tmp_path / "none"), clock
        site.open()


def test_new_certificates_take_the_place_of_the_old_ones_all_at_once(site: PrivateSite) -> None:
    requests = site.keeper.requests()
    chains = chains_for(site.authority, requests)
    site.later(1)
    assert site.keeper.apply(signed_bundle(site.authority, 2, revoked=["ab"]), chains) == 2
    for service, chain in chains.items():
        folder = site.files.current / service
        assert (folder / "tls.crt").read_text() == chain
        certificate = x509.load_pem_x509_certificate(chain.encode())
        kept = site.files.read()
        assert kept is not None and kept.identities[service].chain == chain.encode()
        assert site.keeper.kept.certificate_expire_time == certificate.not_valid_after_utc
    assert not site.files.read_pending()
    assert site.open().kept == site.keeper.kept
    assert site.keeper.kept.link_address == LINK_ADDRESS


def test_asked_again_before_certificates_came_it_gives_the_same_requests(site: PrivateSite) -> None:
    first = site.keeper.requests()
    assert site.keeper.requests() == first == site.open().requests()
    site.keeper.apply(signed_bundle(site.authority, 2), chains_for(site.authority, first))
    assert {one.csr for one in site.keeper.requests()}.isdisjoint({one.csr for one in first})


def test_a_lost_answer_may_be_asked_for_again(site: PrivateSite) -> None:
    bundle, chains = signed_bundle(site.authority, 2), chains_for(site.authority, site.keeper.requests())
    assert site.keeper.apply(bundle, chains) == 2
    version = site.files.current.resolve()
    assert site.keeper.apply(bundle, chains) == 2 == site.open().apply(bundle, chains)
    assert site.files.current.resolve() == version


def test_keys_in_force_since_before_a_crash_are_not_offered_as_new_ones(site: PrivateSite) -> None:
    requests = site.keeper.requests()
    pending = site.files.read_pending()
    site.keeper.apply(signed_bundle(site.authority, 2), chains_for(site.authority, requests))
    # As if it had been killed before it forgot them.
    site.files.write_pending(pending)
    assert {one.csr for one in site.open().requests()}.isdisjoint({one.csr for one in requests})


def test_a_bundle_alone_changes_whom_the_site_trusts_and_no_key(site: PrivateSite) -> None:
    former = site.files.read()
    assert former is not None
    assert site.keeper.apply(signed_bundle(site.authority, 5), {}) == 5
    kept = site.files.read()
    assert kept is not None and kept.identities == former.identities
    assert kept.identity_keys == {"keys": [{"kid": "key 5"}]}


def test_a_bundle_that_is_older_forged_or_for_another_site_is_refused(
    site: PrivateSite, tmp_path: Path, clock: MovedClock
) -> None:
    site.keeper.apply(signed_bundle(site.authority, 5), {})
    with pytest.raises(StateConflict, match="older"):
        site.keeper.apply(signed_bundle(site.authority, 4), {})
    for text in (
        signed_bundle(make_authority(tmp_path / "other", clock), 6),
        signed_bundle(site.authority, 6, "hospital-b"),
        "",
        "a.b.c",
    ):
        with pytest.raises(InvalidField, match="trust_bundle"):
            site.keeper.apply(text, {})
    assert site.keeper.kept.sequence == site.open().kept.sequence == 5


@pytest.mark.parametrize("flaw", ["other keys", "other site", "other authority", "missing", "garbage", "no request"])
def test_certificates_that_were_not_asked_for_are_refused_and_the_old_ones_stay(
    site: PrivateSite, tmp_path: Path, clock: MovedClock, flaw: str
) -> None:
    former = site.files.read()
    requests = SiteKeys().requests() if flaw in ("other keys", "no request") else site.keeper.requests()
    if flaw == "other keys":
        site.keeper.requests()
    other = make_authority(tmp_path / "other", clock)
    chains = chains_for(
        other if flaw == "other authority" else site.authority,
        requests,
        "hospital-b" if flaw == "other site" else "hospital-a",
    )
    if flaw == "missing":
        del chains["model"]
    if flaw == "garbage":
        chains["model"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(InvalidField, match="certificate"):
        site.keeper.apply(signed_bundle(site.authority, 2), chains)
    assert site.files.read() == former
    assert site.keeper.kept.sequence == 1


def test_swapped_certificates_of_two_services_are_refused(site: PrivateSite) -> None:
    chains = chains_for(site.authority, site.keeper.requests())
    chains["model"], chains["gateway"] = chains["gateway"], chains["model"]
    with pytest.raises(InvalidField, match="another key"):
        site.keeper.apply(signed_bundle(site.authority, 2), chains)


def test_a_certificate_that_begins_later_tells_of_the_clock(site: PrivateSite) -> None:
    chains = chains_for(site.authority, site.keeper.requests())
    site.later(-1)
    with pytest.raises(InvalidField, match="clock"):
        site.keeper.apply(signed_bundle(site.authority, 2), chains)


def test_trust_moves_to_a_new_authority_by_way_of_the_old_one(
    site: PrivateSite, tmp_path: Path, clock: MovedClock
) -> None:
    next_one = make_authority(tmp_path / "next", clock)
    authorities = [(tmp_path / name / "ca.crt").read_text() for name in ("authority", "next")]
    content = TrustContent(tuple(authorities), {"keys": []}, ())
    site.keeper.apply(sign_bundle(site.authority, TrustBundle(2, "hospital-a", content, clock())), {})
    assert site.keeper.apply(signed_bundle(next_one, 3), {}) == 3
    with pytest.raises(InvalidField):
        site.keeper.apply(signed_bundle(site.authority, 4), {})


def test_nothing_is_changed_while_the_site_joins_anew(site: PrivateSite) -> None:
    with site.files.locked(), pytest.raises(StateConflict, match="joining"):
        site.keeper.requests()


def test_damaged_files_are_named_at_the_start(site: PrivateSite) -> None:
    (site.files.current / "trust.jws").write_text("damaged")
    with pytest.raises(CannotStart, match="join again"):
        site.open()
    shutil.rmtree(site.files.current / "provisioner")
    with pytest.raises(CannotStart, match="join again"):
        site.open()
    site.files.write(joined_set(site.authority))
    assert site.open().kept.sequence == 1
