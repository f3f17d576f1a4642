"""Where one private site links in: a port and an authority of its own, so that it can be cut without the others.

Skupper's own way is one access with one client key that every `skupper link generate` prints again: a link made of it
can't be taken back. A RouterAccess for each site, with an issuer of its own, ends with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper.resource import Resource, annotation, router_access
from redoma_provisioner.network.drivers.skupper_system.ports import Ports

FIRST_LINK_PORT = 45_671
SITE = "redoma.io/site"
INVITED_UNTIL = "redoma.io/invited-until"
_LONGEST_SITE = 45


@dataclass(frozen=True, slots=True)
class LinkAccess:
    """How private sites reach this machine.

    Attributes:
        host: What they dial.
        bind_host: What the router listens on.
        first_port: The first port given; each site that is invited has one, so a firewall lets a range through.
    """

    host: str
    bind_host: str = "0.0.0.0"  # noqa: S104  links come from outside by design, and are mutual TLS
    first_port: int = FIRST_LINK_PORT


def new_access(site: str, access: LinkAccess, ports: Ports, nonce: str, until: float) -> Resource:
    """Makes the access of a site that is invited; a nonce in its names gives each invitation an authority of its own."""
    name = f"{object_name(site)[:_LONGEST_SITE].rstrip('-')}-{nonce}"
    made = router_access(
        name, {"edge": ports.take()}, bind_host=access.bind_host, hosts=[access.host], issuer=f"{name}-ca"
    )
    return Resource(made.kind, made.name, made.spec, {SITE: site, INVITED_UNTIL: str(int(until))})


def kept_accesses(
    ours: Mapping[tuple[str, str], Mapping[str, object]], keeps: Callable[[str, float], bool]
) -> list[Resource]:
    """Gives the accesses that stay, by what `keeps` says of a site and the end of its invitation (0 once admitted)."""
    kept = []
    for (kind, name), manifest in ours.items():
        site, until = annotation(manifest, SITE), _number(annotation(manifest, INVITED_UNTIL))
        if kind == "RouterAccess" and keeps(site, until):
            spec = manifest.get("spec")
            notes = {SITE: site} | ({INVITED_UNTIL: str(int(until))} if until else {})
            kept.append(Resource(kind, name, spec if isinstance(spec, Mapping) else {}, notes))
    return kept


def access_of(ours: Mapping[tuple[str, str], Mapping[str, object]], site: str) -> Mapping[str, object] | None:
    """Gives the access of a site, if it has one."""
    found = [one for (kind, _), one in ours.items() if kind == "RouterAccess" and annotation(one, SITE) == site]
    return found[0] if found else None


def _number(text: str) -> float:
    return float(text) if text.isdigit() else 0.0
