"""Where one private site links in: a port and an authority of its own, so that it can be cut without the others.

Skupper's own way is one access with one client key that every `skupper link generate` prints again: a link made of it
can't be taken back. A RouterAccess for each site, with an issuer of its own, ends with it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import yaml

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.link_resources import parse
from redoma_provisioner.network.drivers.skupper.name import object_name
from redoma_provisioner.network.drivers.skupper.resource import Resource, annotation, router_access
from redoma_provisioner.network.drivers.skupper_system.files import ResourceKey
from redoma_provisioner.network.drivers.skupper_system.plan import again
from redoma_provisioner.network.drivers.skupper_system.ports import Ports

FIRST_LINK_PORT = 45_671
SITE = "redoma.io/site"
INVITED_UNTIL = "redoma.io/invited-until"
_LONGEST_SITE = 45
_KEY_WARNING = (
    "# This holds a private key: whoever has it can link to the network until the site is revoked.\n"
    "# Pass it on by a way that nobody else reads, and remove it once the site is linked.\n"
)


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
    """Makes the access of a site that is invited; the nonce gives it an authority that nobody had before."""
    name = f"{object_name(site)[:_LONGEST_SITE].rstrip('-')}-{nonce}"
    made = router_access(
        name, {"edge": ports.take()}, bind_host=access.bind_host, hosts=[access.host], issuer=f"{name}-ca"
    )
    return Resource(made.kind, made.name, made.spec, {SITE: site, INVITED_UNTIL: str(int(until))})


def kept_accesses(ours: Mapping[ResourceKey, Mapping[str, object]], admitted: Set[str], now: float) -> list[Resource]:
    """Gives the accesses that stay: those of admitted sites, and of those that are invited still."""
    kept = []
    for (kind, _), manifest in ours.items():
        site, until = annotation(manifest, SITE), annotation(manifest, INVITED_UNTIL)
        if kind != "RouterAccess":
            continue
        if site in admitted:
            # The invitation is over: revoked now, the site is cut whatever time it had left.
            kept.append(replace(again(manifest), annotations={SITE: site}))
        elif until.isdigit() and int(until) > now:
            kept.append(again(manifest))
    return kept


def access_of(ours: Mapping[ResourceKey, Mapping[str, object]], site: str) -> Mapping[str, object] | None:
    """Gives the access of a site, if it has one."""
    found = [one for (kind, _), one in ours.items() if kind == "RouterAccess" and annotation(one, SITE) == site]
    return found[0] if found else None


def shown_link(printed: str) -> str:
    """Gives what `skupper link generate` printed as it is passed on: checked, and with a warning before it.

    Raises:
        DriverRefused: It printed no link.
    """
    if "kind: Link" not in printed:
        raise DriverRefused("Skupper has no link file for this site. Apply again, and look at skupper link generate.")
    parse(printed)
    documents = [one for one in yaml.safe_load_all(printed) if one is not None]
    return _KEY_WARNING + yaml.safe_dump_all(documents, explicit_start=True)
