"""The link of a private site: by a token that Skupper redeems, or by a Link with its Secret.

Skupper makes a Link and a Secret of a token, named after it and owned by its Site. They are marked as Redoma's, so that
they leave with Redoma and not before, also where the Site is another's.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from redoma_provisioner.network.driver import DesiredLink, DriverRefused
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, parse
from redoma_provisioner.network.drivers.skupper.name import checked_label, object_name
from redoma_provisioner.network.drivers.skupper.resource import Resource, annotation, link
from redoma_provisioner.network.drivers.skupper.status import told
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import ACCESS_TOKEN, LINK, SECRET, Kind
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import is_of, name_of, part
from redoma_provisioner.network.drivers.skupper_kubernetes.plan import Plan

LINK_ID = "redoma.io/link"
TRIED = "redoma.io/tried"
AGAIN = "Join again with a new token: redoma van grant --site SITE on the public site"
_LONGEST_ID = 45
_LASTING = (
    (re.compile(r"404 \(Not Found\)"), f"The token for Skupper's link is used up or has expired. {AGAIN}."),
    (re.compile(r"403 \(Forbidden\)"), f"Skupper's grant server refused the token's code. {AGAIN}."),
    (
        re.compile(r"x509:|certificate"),
        "Skupper's grant server shows a certificate that the token does not trust. Check the clocks of both sites and "
        f"what is between them. {AGAIN}.",
    ),
    (re.compile(r"Already redeemed for a deleted site"), f"The Site that the link was made for was deleted. {AGAIN}."),
    (re.compile(r"could not (create|decode)"), f"Skupper could not keep what the token gave. {AGAIN}."),
)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A resource that Skupper made of a token of ours, and that is to be marked. `version` guards what was read."""

    kind: Kind
    name: str
    link: str
    version: str = ""


def planned_link(wanted: DesiredLink, known: Known, tries: Mapping[str, int]) -> Plan:
    """Gives the token, or the Link and its Secret. What is there stays as it is where nothing says what to make it of.

    Args:
        wanted: The link.
        known: What is there.
        tries: By token, how often Skupper was asked to redeem it.
    """
    try:
        return _planned(wanted, known, tries)
    except DriverRefused as refusal:
        return Plan(refusals=(str(refusal),))


def _planned(wanted: DesiredLink, known: Known, tries: Mapping[str, int]) -> Plan:
    if not wanted.resources.strip():
        if links_of(wanted.id, known) or token_of(wanted.id, known):
            return Plan()
        raise DriverRefused(f"Nothing says by what the link {wanted.id} is to be made. {AGAIN}.")
    name, notes = name_for(wanted), {LINK_ID: wanted.id}
    source = parse(wanted.resources)
    if isinstance(source, AccessToken):
        spec = {"url": source.url, "code": source.code, "ca": source.ca, "linkCost": source.cost}
        tried = {TRIED: str(tries[name])} if tries.get(name) else {}
        problem = lasting_problem(known.ours(ACCESS_TOKEN).get(name))
        return Plan((Resource(ACCESS_TOKEN.name, name, spec, notes | tried),), (problem,) if problem else ())
    made = link(name, source.endpoints, secret=name, cost=source.cost)
    secret = Resource(SECRET.name, name, annotations=notes, data=source.data)
    return Plan((secret, Resource(LINK.name, name, made.spec, notes)))


def name_for(wanted: DesiredLink) -> str:
    """Gives the name of what is made for a link: another for each token, so that none meets what a former one left."""
    digest = hashlib.sha256(wanted.resources.strip().encode()).hexdigest()[:8]
    slug = object_name(f"redoma-{wanted.id}")[:_LONGEST_ID].rstrip("-")
    return checked_label(f"{slug}-{digest}", "The link's name")


def is_kept(kind: Kind, manifest: Manifest, wanted: Mapping[str, DesiredLink]) -> bool:
    """Tells whether a Link or a token of ours stays: one of a link that is wanted, made of what it is wanted by."""
    found = wanted.get(annotation(manifest, LINK_ID))
    if kind not in (LINK, ACCESS_TOKEN) or found is None:
        return False
    name = name_of(manifest)
    return not found.resources.strip() or name == name_for(found) or secret_of(kind, manifest) == name_for(found)


def secret_of(kind: Kind, manifest: Manifest) -> str:
    """Gives the name of the Secret that belongs to a Link or comes of a token; empty for other kinds."""
    if kind == LINK:
        return str(part(manifest, "spec").get("tlsCredentials") or "")
    return name_of(manifest) if kind == ACCESS_TOKEN else ""


def token_of(link_id: str, known: Known) -> Manifest | None:
    """Gives the token of a link."""
    found = known.ours(ACCESS_TOKEN).values()
    return next((one for one in found if annotation(one, LINK_ID) == link_id), None)


def links_of(link_id: str, known: Known) -> list[Manifest]:
    """Gives the Links that a link consists of: several where the public site's routers come in pairs."""
    marked = [one for one in known.ours(LINK).values() if annotation(one, LINK_ID) == link_id]
    token = token_of(link_id, known)
    return [*marked, *(made_of(token, known) if token else ())]


def made_of(token: Manifest, known: Known) -> list[Manifest]:
    """Gives the Links that Skupper made of a token and that are not marked yet."""
    name = name_of(token)
    return [
        one
        for other, one in known.theirs(LINK).items()
        if secret_of(LINK, one) == name and re.fullmatch(rf"{re.escape(name)}(-\d+)?", other)
    ]


def adoptions(known: Known) -> list[Adoption]:
    """Gives what is to be marked; the Link last, so that one that is marked says that its Secret is."""
    found = []
    for name, token in known.ours(ACCESS_TOKEN).items():
        link_id, links = annotation(token, LINK_ID), made_of(token, known)
        if not links or not is_of(token, known.site):
            continue
        found.append(Adoption(SECRET, name, link_id))
        for one in links:
            version = str(part(one, "metadata").get("resourceVersion", ""))
            found.append(Adoption(LINK, name_of(one), link_id, version))
    return found


def is_waiting(token: Manifest) -> bool:
    """Tells whether Skupper has a token to redeem yet, and might succeed."""
    return told(token, "Redeemed").holds is not True and not lasting_problem(token)


def is_settled(token: Manifest, known: Known) -> bool:
    """Tells whether Skupper has said what becomes of a token, and made a Link of it if it said so."""
    said = told(token, "Redeemed")
    return bool(made_of(token, known)) if said.holds is True else said.holds is False


def lasting_problem(token: Manifest | None) -> str:
    """Says why a token will never make a link; empty where it did or might."""
    said = told(token, "Redeemed") if token else None
    if token is None or said is None or (said.holds is True and not said.message.startswith("Already redeemed")):
        return ""
    return next((words for looks, words in _LASTING if looks.search(said.message)), "")
