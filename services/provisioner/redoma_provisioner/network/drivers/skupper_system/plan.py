"""From what a network should be to the resources of Skupper that make it so."""

import hashlib
from collections.abc import Mapping, Sequence

from redoma_provisioner.network.driver import DesiredConnector, DesiredLink, DesiredListener, DriverRefused
from redoma_provisioner.network.drivers.skupper.link_resources import LinkCredentials
from redoma_provisioner.network.drivers.skupper.name import checked_label, object_name, split_address
from redoma_provisioner.network.drivers.skupper.resource import (
    MANAGED_BY,
    Resource,
    annotation,
    connector,
    is_ours,
    link,
    listener,
)
from redoma_provisioner.network.drivers.skupper_system.files import Known, ResourceKey, name_of, same
from redoma_provisioner.network.drivers.skupper_system.ports import Ports

SOURCE = "redoma.io/source"


def listeners(wanted: Sequence[DesiredListener], known: Known, host: str, ports: Ports) -> list[Resource]:
    """Gives a Listener for each that is wanted, each with the port that it has already, if any."""
    made = []
    for one in sorted(wanted, key=lambda one: one.routing_key):
        name = object_name(one.routing_key)
        spec = known.ours.get(("Listener", name), {}).get("spec")
        port = spec.get("port") if isinstance(spec, Mapping) else None
        made.append(listener(name, one.routing_key, host, port if isinstance(port, int) else ports.take()))
    return made


def connector_of(one: DesiredConnector) -> Resource:
    """Gives the Connector that is wanted.

    Raises:
        DriverRefused: Its target is no host:port that Skupper's router could dial.
    """
    if one.target.startswith(("unix:", "selector:")):
        kind = one.target.partition(":")[0]
        raise DriverRefused(
            f"The connector {one.routing_key} has a target of the kind {kind}:, which Skupper's router can't dial "
            "here. Have the service listen on a port, and give its HOST:PORT."
        )
    host, port = split_address(one.target, f"The target of the connector {one.routing_key}")
    return connector(object_name(one.routing_key), one.routing_key, host, port)


def link_name(wanted: DesiredLink) -> str:
    """Gives the name of the Link, and of its Secret.

    Raises:
        DriverRefused: The link's id can't be one.
    """
    return checked_label(object_name(wanted.id), "The link's name")


def link_there(wanted: DesiredLink, known: Known) -> list[Resource] | None:
    """Gives the Link and its Secret that were made of the same resources before; None where there are none.

    A link whose resources are not told stays as it is: a token is not there twice.
    """
    name = link_name(wanted)
    for found in (known.ours, known.kept):
        pair = [found.get(("Link", name)), found.get(("Secret", name))]
        if all(one is not None and _is_of(one, wanted) for one in pair):
            return [again(one) for one in pair if one is not None]
    return None


def link_made(wanted: DesiredLink, credentials: LinkCredentials) -> list[Resource]:
    """Gives the Link and its Secret, with a digest of what they were made of."""
    name, notes = link_name(wanted), {SOURCE: source_of(wanted)}
    made = link(name, credentials.endpoints, secret=name, cost=credentials.cost)
    return [
        Resource("Link", name, made.spec, notes),
        Resource("Secret", name, annotations=notes, data=credentials.data),
    ]


def source_of(wanted: DesiredLink) -> str:
    """Gives a digest of the resources of a link; they hold at least 128 random bits, so it tells nothing of them."""
    return hashlib.sha256(wanted.resources.strip().encode()).hexdigest()


def not_taken_up(wanted: Sequence[Resource], known: Known, namespace: str) -> set[ResourceKey]:
    """Gives what Skupper must take up for what is wanted: what differs, and what it runs on and should not.

    A Listener that is wanted no more is left out: its port leads nowhere once the egress has forgotten it, and a
    restart of the router for it would break every stream of every site. It goes with the next restart.
    """
    from_us = {(one.kind, one.name): one.manifest(namespace) for one in wanted}
    differing = {key for key, manifest in from_us.items() if not same(manifest, known.taken_up.get(key))}
    dropped = {key for key, one in known.taken_up.items() if is_ours(one) and key not in from_us}
    return differing | {key for key in dropped if key[0] != "Listener"}


def link_left(wanted: DesiredLink, known: Known) -> list[Resource]:
    """Gives the Link and its Secret as they are, whatever they were made of; empty where there are none."""
    name = link_name(wanted)
    return [again(known.ours[key]) for key in (("Link", name), ("Secret", name)) if key in known.ours]


def again(manifest: Mapping[str, object]) -> Resource:
    """Gives the resource that a manifest of ours was made of."""
    metadata, spec, data = (manifest.get(key) for key in ("metadata", "spec", "data"))
    notes = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return Resource(
        str(manifest.get("kind")),
        name_of(manifest),
        spec if isinstance(spec, Mapping) else {},
        {key: value for key, value in notes.items() if key != MANAGED_BY} if isinstance(notes, Mapping) else {},
        data if isinstance(data, Mapping) else {},
    )


def _is_of(found: Mapping[str, object], wanted: DesiredLink) -> bool:
    return not wanted.resources or annotation(found, SOURCE) == source_of(wanted)
