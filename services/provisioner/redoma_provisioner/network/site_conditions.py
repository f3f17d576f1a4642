"""What is said of a site."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.site import Site, SiteCertificates, SiteState
from redoma_provisioner.network.standings import Standing
from redoma_provisioner.trust.names import PUBLIC_SITE

LONGEST_CLOCK_DIFFERENCE = timedelta(seconds=30)
JOINED, LINKED, TRUST_CURRENT = "Joined", "Linked", "TrustCurrent"
CLOCK_IN_STEP, CERTIFICATES_VALID = "ClockInStep", "CertificatesValid"


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the conditions of all sites are made from, besides what is kept of each.

    Attributes:
        driver: What carries this public site's network.
        trust_sequence: Number of the trust bundle that sites should have.
        certificates: By site.
        link_problems: Why a site's link carries no calls, by site, as a sentence.
    """

    driver: DriverKind
    trust_sequence: int
    certificates: Mapping[str, SiteCertificates]
    link_problems: Mapping[str, str]


def site_conditions(site: Site, standing: Standing, facts: SiteFacts, now: datetime) -> tuple[Condition, ...]:
    """Gives the conditions of a site."""
    if site.id == PUBLIC_SITE:
        return (Condition(JOINED, True, "PublicSite"), Condition(LINKED, True, "PublicSite"))
    if site.state is not SiteState.JOINED:
        return (_not_joined(site), Condition(LINKED, False, "NotJoined", f"{site.id} is not part of the network."))
    expire_time = certificate_expire_time(site, standing, facts)
    return (
        Condition(JOINED, True, "Joined"),
        _linked(site, standing, facts, expire_time, now),
        _trust_current(site, standing, facts),
        _clock_in_step(site, standing),
        _certificates_valid(site, expire_time, now),
    )


def certificate_expire_time(site: Site, standing: Standing, facts: SiteFacts) -> datetime | None:
    """Gives when the first of a site's certificates expires, by its own word while it answers; None: nobody knows."""
    if standing.linked and standing.report is not None and standing.report.certificate_expire_time is not None:
        return standing.report.certificate_expire_time
    kept = facts.certificates.get(site.id)
    return None if kept is None else kept.expire_time


def _not_joined(site: Site) -> Condition:
    if site.state is SiteState.INVITED:
        return Condition(
            JOINED, False, "Invited", f"Nobody joined as {site.id} yet: run `redoma van join` with its token there."
        )
    message = f"{site.id} was revoked for good; delete it to use its id for a new site."
    return Condition(JOINED, False, "Revoked", message)


def _linked(site: Site, standing: Standing, facts: SiteFacts, expire_time: datetime | None, now: datetime) -> Condition:
    if standing.linked:
        return Condition(LINKED, True, "Answers")
    if not site.driver.links_with(facts.driver):
        message = (
            f"{site.id} joined for {site.driver.value}, but this site uses {facts.driver.value}: {_join_anew(site)}."
        )
        return Condition(LINKED, False, "OtherDriver", message)
    if expire_time is not None and expire_time <= now:
        message = f"The certificates of {site.id} have expired: {_join_anew(site)}."
        return Condition(LINKED, False, "CertificateExpired", message)
    if problem := facts.link_problems.get(site.id):
        return Condition(LINKED, False, "NoLink", problem)
    if not standing.problem:
        return Condition(LINKED, None, "NotTriedYet", f"{site.id} is being called for the first time.")
    return Condition(LINKED, False, "NoAnswer", standing.problem)


def _trust_current(site: Site, standing: Standing, facts: SiteFacts) -> Condition:
    confirmed = max(site.trust_sequence, 0 if standing.report is None else standing.report.trust_sequence)
    if confirmed >= facts.trust_sequence:
        return Condition(TRUST_CURRENT, True, "Confirmed")
    if standing.linked:
        message = f"{site.id} has trust bundle {confirmed} and is being sent {facts.trust_sequence}."
        return Condition(TRUST_CURRENT, False, "BeingSent", message)
    message = f"{site.id} has trust bundle {confirmed}, and gets {facts.trust_sequence} once it is linked."
    return Condition(TRUST_CURRENT, False, "NotLinked", message)


def _clock_in_step(site: Site, standing: Standing) -> Condition:
    if standing.report is None or standing.heard_time is None:
        return Condition(CLOCK_IN_STEP, None, "NotHeardOf", f"{site.id} tells its time once it is linked.")
    ahead = standing.report.clock - standing.heard_time
    if abs(ahead) <= LONGEST_CLOCK_DIFFERENCE:
        return Condition(CLOCK_IN_STEP, True, "InStep")
    difference, which = abs(ahead) // timedelta(seconds=1), "ahead of" if ahead > timedelta() else "behind"
    message = f"The clock of {site.id} is {difference} s {which} this site's: set the wrong one, and keep both by NTP."
    return Condition(CLOCK_IN_STEP, False, "ClockOutOfStep", message)


def _certificates_valid(site: Site, expire_time: datetime | None, now: datetime) -> Condition:
    if expire_time is None:
        message = f"{site.id} has no certificate that counts: {_join_anew(site)}."
        return Condition(CERTIFICATES_VALID, False, "NoCertificates", message)
    if expire_time <= now:
        message = f"The certificates of {site.id} expired at {expire_time:%Y-%m-%d %H:%M} UTC: {_join_anew(site)}."
        return Condition(CERTIFICATES_VALID, False, "CertificateExpired", message)
    return Condition(CERTIFICATES_VALID, True, "Valid")


def _join_anew(site: Site) -> str:
    return f"let it join anew with a token of `redoma van grant --site {site.id} --rejoin`"
