"""From what a network should be to the resources of Skupper that make it so."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redoma_provisioner.network.driver import DesiredConnector, DesiredListener, DriverRefused
from redoma_provisioner.network.drivers.skupper.name import (
    checked_label,
    checked_port,
    checked_routing_key,
    object_name,
    split_address,
)
from redoma_provisioner.network.drivers.skupper.resource import (
    Resource,
    connector,
    listener,
    selector_connector,
    site,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import (
    LISTENER,
    MULTI_KEY_LISTENER,
    ROUTER_ACCESS,
    SITE,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import part

Wanted = TypeVar("Wanted")
LINK_ACCESS = "redoma-link-access"
LINK_PORTS = {"edge": 45_671, "inter-router": 55_671}
_SELECTOR = re.compile(
    r"[A-Za-z0-9]([-A-Za-z0-9_./]{0,250}[A-Za-z0-9])?=[-A-Za-z0-9_.]{0,63}"
    r"(,[A-Za-z0-9]([-A-Za-z0-9_./]{0,250}[A-Za-z0-9])?=[-A-Za-z0-9_.]{0,63})*"
)
_LOOPBACK = re.compile(r"(127\.|::1$|localhost$)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be there, and the sentences that say what can't be."""

    resources: tuple[Resource, ...] = ()
    refusals: tuple[str, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        return Plan((*self.resources, *other.resources), (*self.refusals, *other.refusals))


def planned_site(known: Known, *, edge: bool) -> Plan:
    """Gives the Site, unless the namespace has another's, which is used as it is."""
    if known.uses_their_site:
        return Plan()
    return Plan((site(object_name(known.site), edge=edge),))


def planned_access(known: Known, access_type: str) -> Plan:
    """Gives where links of private sites come in, unless another lets them in already.

    Once made it stays, whatever others add: sites dial it.
    """
    if not known.ours(ROUTER_ACCESS):
        theirs = [part(one, "spec").get("linkAccess") for one in known.theirs(SITE).values()]
        if known.theirs(ROUTER_ACCESS) or any(one not in (None, "", "none") for one in theirs):
            return Plan()
    spec: dict[str, object] = {
        # A private site links as edge unless it relays. Without its port Skupper makes no Service for a role.
        "roles": [{"name": role, "port": port} for role, port in LINK_PORTS.items()],
        "tlsCredentials": LINK_ACCESS,
        "generateTlsCredentials": True,
    }
    if access_type:
        spec["accessType"] = checked_label(access_type, "driver.access_type")
    return Plan((Resource("RouterAccess", LINK_ACCESS, spec),))


def planned_listeners(wanted: Sequence[DesiredListener], known: Known, port: int) -> Plan:
    """Gives a Listener for each that is wanted. Skupper makes a Service of its name, so all can have one port."""
    taken = {
        str(part(one, "spec").get("host"))
        for kind in (LISTENER, MULTI_KEY_LISTENER)
        for one in known.theirs(kind).values()
    }

    def make(one: DesiredListener) -> Resource:
        name = object_name(one.routing_key)
        if name in taken:
            raise DriverRefused(
                f"The listener {one.routing_key} needs the host {name}, which a Listener that is not Redoma's has. "
                "Give that one another host."
            )
        return listener(name, one.routing_key, name, port)

    return _each(wanted, make)


def planned_connectors(wanted: Sequence[DesiredConnector]) -> Plan:
    """Gives a Connector for each that is wanted."""
    return _each(wanted, _connector)


def listener_address(routing_key: str, namespace: str, port: int) -> str:
    """Gives host:port of a listener's Service, as pods of any namespace reach it."""
    return f"{object_name(routing_key)}.{namespace}.svc:{port}"


def _connector(wanted: DesiredConnector) -> Resource:
    name, key, target = object_name(wanted.routing_key), checked_routing_key(wanted.routing_key), wanted.target
    what = f"The target of the connector {key}"
    if target.startswith("unix:"):
        raise DriverRefused(
            f"{what} is a Unix socket, which Skupper's router can't dial. Have the service listen on a port, and give "
            "selector:KEY=VALUE:PORT or HOST:PORT."
        )
    if target.startswith("selector:"):
        selector, colon, port = target.removeprefix("selector:").rpartition(":")
        if not colon or not _SELECTOR.fullmatch(selector):
            raise DriverRefused(f"{what} is not valid: give selector:KEY=VALUE:PORT, with more KEY=VALUE after commas.")
        return selector_connector(name, key, selector, checked_port(port, what))
    host, number = split_address(target, what)
    if _LOOPBACK.match(host):
        raise DriverRefused(
            f"{what} is {host}, where Skupper's router would find only itself. Give selector:KEY=VALUE:PORT, or a host "
            "that the router's pod reaches."
        )
    return connector(name, key, host, number)


def _each(wanted: Sequence[Wanted], make: Callable[[Wanted], Resource]) -> Plan:
    resources, refusals = [], []
    for one in wanted:
        try:
            resources.append(make(one))
        except DriverRefused as refusal:
            refusals.append(str(refusal))
    return Plan(tuple(resources), tuple(refusals))
