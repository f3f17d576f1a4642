"""Looks at certificates and at the clock, which every certificate depends on."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from redoma_cli.local.finding import Finding, Health
from redoma_cli.local.home import Home
from redoma_cli.local.membership import MembershipDamaged, read_membership, read_state, trouble_of
from redoma_cli.local.options import Sites
from redoma_cli.local.pki import PUBLIC_SERVICES, DevelopmentAuthority

EXPIRES_SOON = timedelta(days=14)
# A private site's are renewed by themselves when ten of thirty days are left.
RENEWAL_LATE = timedelta(days=5)
SKEW = timedelta(minutes=1)
CLOCK_MEND = "Set the clock, and keep it set: timedatectl set-ntp true"


def certificates(home: Home, sites: Sites, now: datetime) -> Iterator[Finding]:
    """Looks at the certificates of the sites that this machine runs."""
    if sites.has_public:
        yield _public_certificates(home, now)
    if sites.has_private:
        yield _private_certificates(home, sites, now)


def clock(home: Home, sites: Sites, now: datetime) -> Finding:
    """Compares the clock with what was written by this machine or signed by another before."""
    for what, moment in _known_past(home, sites):
        if moment - now > SKEW:
            behind = moment - now
            sentence = f"It is at least {_span(behind)} behind: {what} says {moment:%Y-%m-%d %H:%M} UTC."
            return Finding("clock", Health.BAD, sentence, CLOCK_MEND)
    return Finding("clock", Health.GOOD, f"{now:%Y-%m-%d %H:%M} UTC fits the certificates")


def _public_certificates(home: Home, now: datetime) -> Finding:
    subject = "certificates"
    authority = DevelopmentAuthority(home.pki)
    soonest: datetime | None = None
    for service in PUBLIC_SERVICES:
        try:
            expiry = authority.expiry(service)
        except OSError:
            return Finding(subject, Health.WARNING, f"{service} has none yet.", "Make them with: redoma up")
        except ValueError:
            return Finding(subject, Health.BAD, f"{service}'s is damaged.", "Make it anew with: redoma up")
        soonest = expiry if soonest is None else min(soonest, expiry)
    if soonest is None or soonest - now < EXPIRES_SOON:
        return Finding(subject, Health.BAD, _validity(soonest, now), "Renew them with: redoma up")
    return Finding(subject, Health.GOOD, _validity(soonest, now))


def _private_certificates(home: Home, sites: Sites, now: datetime) -> Finding:
    subject, directory = "membership", home.private.membership
    site = read_state(directory).site
    mend = (
        "Join anew with: redoma up"
        if sites is Sites.BOTH
        else f"On the public site: redoma van grant --site {site or 'NAME'}{' --rejoin' if site else ''}; "
        "then here: redoma up --site private --join TOKEN"
    )
    try:
        membership = read_membership(directory)
    except MembershipDamaged as error:
        return Finding(subject, Health.BAD, str(error), mend)
    if membership is None:
        return Finding(subject, Health.BAD, "The private site has not joined.", mend)
    authority = DevelopmentAuthority(home.pki).certificate if sites.has_public else None
    trouble = trouble_of(directory, membership, authority, now)
    if trouble:
        return Finding(subject, Health.BAD, trouble, mend)
    sentence = f"site {membership.site}, {_validity(membership.expire_time, now)}"
    if membership.expire_time - now < RENEWAL_LATE:
        renew = f"They are renewed over the link: see `redoma van status`, or: redoma van rotate {membership.site}"
        return Finding(subject, Health.BAD, f"{sentence}, and not renewed", renew)
    return Finding(subject, Health.GOOD, sentence)


def _known_past(home: Home, sites: Sites) -> Iterator[tuple[str, datetime]]:
    """Gives moments that have passed for certain."""
    if sites.has_public:
        authority = DevelopmentAuthority(home.pki)
        for service in PUBLIC_SERVICES:
            yield from _issue_time(f"{service}'s certificate", authority.identity(service).certificate)
    if sites.has_private:
        try:
            membership = read_membership(home.private.membership)
        except MembershipDamaged:
            membership = None
        if membership is not None:
            yield "the membership", membership.begin_time
        written = read_state(home.private.membership).updated_at
        try:
            found = datetime.fromisoformat(written)
        except ValueError:
            return
        if found.tzinfo is not None:
            yield "the provisioner's last note", found


def _issue_time(what: str, file: Path) -> Iterator[tuple[str, datetime]]:
    try:
        yield what, x509.load_pem_x509_certificate(file.read_bytes()).not_valid_before_utc
    except (OSError, ValueError):
        return


def _validity(expiry: datetime | None, now: datetime) -> str:
    if expiry is None:
        return "there are none"
    return f"expired on {expiry:%Y-%m-%d}" if expiry <= now else f"valid until {expiry:%Y-%m-%d}"


def _span(length: timedelta) -> str:
    if length.days:
        return f"{length.days} days"
    return f"{length.seconds // 3600} h" if length.seconds >= 3600 else f"{length.seconds // 60} min"
