"""What Skupper says of a resource, read from its status whichever way it came: the CLI, a file, or an API server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redoma_provisioner.network.drivers.skupper.name import object_name


@dataclass(frozen=True, slots=True)
class Told:
    """One condition in Skupper's words; `holds` is None where Skupper has said nothing of it yet."""

    holds: bool | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class PeerSite:
    """A site that Skupper sees in the network.

    Attributes:
        name: Its name, which of a system site ends in two numbers.
        connectors: The routing keys that it exposes.
        operational_links: How many of its links carry.
    """

    name: str
    connectors: frozenset[str]
    operational_links: int


def told(manifest: Mapping[str, object], type_: str) -> Told:
    """Gives what a resource's status says of one type of condition, such as "Matched"."""
    status = manifest.get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    for one in conditions if isinstance(conditions, Sequence) else ():
        if isinstance(one, Mapping) and one.get("type") == type_:
            holds = {"True": True, "False": False}.get(str(one.get("status")))
            return Told(holds, str(one.get("message", ""))[:300])
    return Told()


def peer_sites(site: Mapping[str, object]) -> tuple[PeerSite, ...]:
    """Gives the sites that a Site's status lists in its network, itself among them."""
    status = site.get("status")
    network = status.get("network") if isinstance(status, Mapping) else None
    return tuple(_peer(one) for one in network or () if isinstance(one, Mapping)) if isinstance(network, list) else ()


def peer_of(sites: Sequence[PeerSite], site: str) -> PeerSite | None:
    """Finds a private site among them: by the routing keys that it exposes, or by its name."""
    for one in sites:
        if any(key.startswith(f"{site}.") for key in one.connectors):
            return one
    name = object_name(site)
    return next((one for one in sites if _is_named(one.name, name)), None)


def _is_named(found: str, name: str) -> bool:
    """A router of a system site is called by its site's name, the second and the nanosecond that it was made."""
    rest = found.removeprefix(name)
    return found.startswith(name) and (not rest or (rest.count("-") == 2 and rest.replace("-", "").isdigit()))


def _peer(entry: Mapping[str, object]) -> PeerSite:
    services, links = entry.get("services"), entry.get("links")
    keys = [
        str(one.get("routingKey", ""))
        for one in (services if isinstance(services, list) else ())
        if isinstance(one, Mapping) and one.get("connectors")
    ]
    up = [
        one for one in (links if isinstance(links, list) else ()) if isinstance(one, Mapping) and one.get("operational")
    ]
    return PeerSite(str(entry.get("name", "")), frozenset(keys), len(up))
