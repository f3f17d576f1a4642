"""Grants by which one private site may link, once: what of them stays, and the token that is made of one."""

from collections.abc import Collection, Mapping

import yaml

from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper.resource import API_VERSION, Resource, access_grant, annotation
from redoma_provisioner.network.drivers.skupper.status import Told, told
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import ACCESS_GRANT, SITE
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import name_of, part

INVITED = "redoma.io/invited-site"
UNTIL = "redoma.io/invited-until"
ADMITTED = "redoma.io/admitted"
_LONGEST_SITE = 40


def new_grant(site: str, ttl_s: float, until: float, nonce: str) -> Resource:
    """Makes a grant for a site, good once and for `ttl_s` seconds."""
    name = f"redoma-{object_name(site)[:_LONGEST_SITE].rstrip('-')}-{nonce}"
    made = access_grant(name, redemptions=1, ttl_s=ttl_s)
    return Resource(made.kind, made.name, made.spec, {INVITED: site, UNTIL: str(int(until))})


def kept_grants(known: Known, admitted: Collection[str], now: float) -> tuple[Resource, ...]:
    """Gives the grants that stay: of sites that are admitted, and those that may yet be used by one that will be.

    A grant of a site that was admitted and is no more goes, used or not.
    """
    kept = []
    for name, manifest in known.ours(ACCESS_GRANT).items():
        site, until = annotation(manifest, INVITED), _number(annotation(manifest, UNTIL))
        is_over = is_used(manifest) or until <= now or bool(annotation(manifest, ADMITTED))
        if is_over and site not in admitted:
            continue
        notes = {INVITED: site, UNTIL: str(int(until))} | ({ADMITTED: "true"} if site in admitted else {})
        kept.append(Resource(ACCESS_GRANT.name, name, part(manifest, "spec"), notes))
    return tuple(kept)


def invited_until(known: Known, now: float) -> str:
    """Gives until when the Site is kept for one who has no grant yet, as an annotation; empty where there is none."""
    latest = max((_number(annotation(one, UNTIL)) for one in known.ours(SITE).values()), default=0.0)
    return str(int(latest)) if latest > now else ""


def former_grants(known: Known, site: str, name: str) -> list[Manifest]:
    """Gives the grants of a site that the one called `name` replaces."""
    found = known.ours(ACCESS_GRANT).values()
    return [one for one in found if annotation(one, INVITED) == site and name_of(one) != name]


def is_used(manifest: Manifest) -> bool:
    """Tells whether a grant let somebody in already."""
    redemptions = part(manifest, "status").get("redemptions")
    return isinstance(redemptions, int) and redemptions > 0


def token_of(manifest: Manifest, site: str) -> str:
    """Gives the AccessToken of a grant, as YAML; empty while Skupper has not said all of it."""
    status = part(manifest, "status")
    spec = {key: str(status.get(key) or "") for key in ("url", "code", "ca")}
    if not all(spec.values()) or told(manifest, "Processed").holds is not True:
        return ""
    token: Mapping[str, object] = {
        "apiVersion": API_VERSION,
        "kind": "AccessToken",
        "metadata": {"name": object_name(site)},
        "spec": spec,
    }
    return str(yaml.safe_dump(token, sort_keys=True))


def grant_problem(manifest: Manifest | None) -> str:
    """Says why there is no token of a grant yet, without a trailing dot."""
    if manifest is None:
        return "the AccessGrant is gone again"
    for type_ in ("Processed", "Resolved"):
        said: Told = told(manifest, type_)
        if said.holds is False:
            return f"Skupper says of its AccessGrant: {said.message.rstrip('. ') or 'not ' + type_}"
    return "Skupper's controller has said nothing of its AccessGrant"


def _number(text: str) -> float:
    return float(text) if text.isdigit() else 0.0
