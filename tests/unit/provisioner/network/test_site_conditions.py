"""Each thing that can be wrong with a site has a sentence that says what to do."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.site import Site, SiteCertificates, SiteState
from redoma_provisioner.network.site_conditions import SiteFacts, site_conditions
from redoma_provisioner.network.standings import Standing
from tests.fakes.memory_network import START, a_report, a_site

SITE = a_site("hospital-a")
VALID = {"hospital-a": SiteCertificates(("ab",), START + timedelta(days=30))}
FACTS = SiteFacts(DriverKind.FAKE, 3, VALID, {})
LINKED = Standing(True, a_report("hospital-a", sequence=3), START)


def of(type_: str, site: Site, standing: Standing, facts: SiteFacts = FACTS) -> Condition:
    """Gives one condition."""
    (found,) = [one for one in site_conditions(site, standing, facts, START) if one.type == type_]
    return found


def test_a_healthy_site_has_nothing_to_say() -> None:
    conditions = site_conditions(SITE, LINKED, FACTS, START)
    assert all(condition.holds is True and not condition.message for condition in conditions)
    assert [one.type for one in conditions] == [
        "Joined",
        "Linked",
        "TrustCurrent",
        "ClockInStep",
        "CertificatesValid",
    ]


@pytest.mark.parametrize(
    ("seconds", "in_step"), [(-31, False), (-30, True), (0, True), (30, True), (31, False), (86_400, False)]
)
def test_a_clock_that_is_off_is_told_with_how_much(seconds: int, in_step: bool) -> None:
    standing = replace(LINKED, report=a_report("hospital-a", START + timedelta(seconds=seconds), 3))
    told = of("ClockInStep", SITE, standing)
    assert told.holds is in_step
    if not in_step:
        assert f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'}" in told.message
        assert "NTP" in told.message


def test_an_expired_certificate_is_why_it_is_not_linked() -> None:
    facts = replace(FACTS, certificates={"hospital-a": SiteCertificates((), START - timedelta(seconds=1))})
    lost = Standing(False, LINKED.report, START, "It does not answer.")
    assert of("Linked", SITE, lost, facts).reason == "CertificateExpired"
    assert "join anew" in of("CertificatesValid", SITE, lost, facts).message


def test_a_link_that_is_down_is_why_it_is_not_linked() -> None:
    facts = replace(FACTS, link_problems={"hospital-a": "The site hospital-a has no connection."})
    lost = Standing(False, None, None, "It does not answer.")
    assert of("Linked", SITE, lost, facts) == Condition(
        "Linked", False, "NoLink", "The site hospital-a has no connection."
    )
    assert of("Linked", SITE, lost).message == "It does not answer."


def test_a_site_that_joined_for_another_driver_is_told_to_join_anew() -> None:
    other = replace(SITE, driver=DriverKind.EMBEDDED)
    told = of("Linked", other, Standing())
    assert told.reason == "OtherDriver" and "join anew" in told.message


def test_an_old_trust_bundle_says_which_and_when_the_new_one_comes() -> None:
    told = of("TrustCurrent", SITE, replace(LINKED, report=a_report("hospital-a", sequence=2)))
    assert told.holds is False and "bundle 2" in told.message and "3" in told.message
    told = of("TrustCurrent", SITE, Standing(False, a_report("hospital-a", sequence=2), START, "Away."))
    assert told.reason == "NotLinked"


@pytest.mark.parametrize("state", [SiteState.INVITED, SiteState.REVOKED])
def test_a_site_that_is_not_part_of_the_network_says_so_and_no_more(state: SiteState) -> None:
    conditions = site_conditions(replace(SITE, state=state), Standing(), FACTS, START)
    assert [(one.type, one.holds) for one in conditions] == [("Joined", False), ("Linked", False)]


@given(
    state=st.sampled_from(SiteState),
    linked=st.booleans(),
    has_report=st.booleans(),
    skew=st.integers(-100_000, 100_000),
    sequence=st.integers(0, 5),
    expires=st.integers(-100, 100),
    problem=st.sampled_from(["", "It does not answer."]),
)
def test_whatever_does_not_hold_has_a_sentence(
    state: SiteState, linked: bool, has_report: bool, skew: int, sequence: int, expires: int, problem: str
) -> None:
    clock = START + timedelta(seconds=skew)
    report = replace(
        a_report("hospital-a", clock, sequence), certificate_expire_time=START + timedelta(seconds=expires)
    )
    standing = Standing(linked and has_report, report if has_report else None, START if has_report else None, problem)
    for condition in site_conditions(replace(SITE, state=state), standing, FACTS, START):
        assert condition.reason
        assert (condition.message == "") is (condition.holds is True), condition
        assert condition.holds is True or condition.message.endswith("."), condition
