"""Skupper's resources as plain values, made by functions that let only valid ones through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import (
    checked_host,
    checked_label,
    checked_port,
    checked_routing_key,
)

# The release of Skupper that the drivers were written for; others are refused or told of.
VERSION = "2.2.1"
API_VERSION = "skupper.io/v2alpha1"
MANAGED_BY = "redoma.io/managed-by"
MANAGER = "redoma"
LINK_ROLES = ("inter-router", "edge")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of Skupper, or the Secret of a link.

    Attributes:
        kind: Such as "Listener".
        name: A label; unique for its kind in a namespace.
        spec: What is wanted.
        annotations: What is noted of it, besides that Redoma made it.
        data: Of a Secret: base64 by name. Never shown.
    """

    kind: str
    name: str
    spec: Mapping[str, object] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict, repr=False)

    def manifest(self, namespace: str) -> dict[str, object]:
        """Gives the document that Skupper reads, with the mark of who made it."""
        body: dict[str, object] = {
            "apiVersion": "v1" if self.kind == "Secret" else API_VERSION,
            "kind": self.kind,
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "annotations": {MANAGED_BY: MANAGER, **self.annotations},
            },
        }
        if self.kind == "Secret":
            return {**body, "type": "kubernetes.io/tls", "data": dict(self.data)}
        return {**body, "spec": dict(self.spec)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a link goes: the role "inter-router" or "edge", and its host and port."""

    role: str
    host: str
    port: int


def is_ours(manifest: Mapping[str, object]) -> bool:
    """Tells whether Redoma made the resource."""
    return annotation(manifest, MANAGED_BY) == MANAGER


def annotation(manifest: Mapping[str, object], name: str) -> str:
    """Gives an annotation of a resource; empty where it has none of the name."""
    metadata = manifest.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return str(annotations.get(name, "")) if isinstance(annotations, Mapping) else ""


def site(name: str, *, edge: bool, link_access: str = "") -> Resource:
    """Makes a Site; `edge` for one that relays for nobody."""
    spec: dict[str, object] = {}
    if edge:
        spec["edge"] = True
    if link_access:
        spec["linkAccess"] = link_access
    return Resource("Site", checked_label(name, "The site's name"), spec)


def listener(name: str, routing_key: str, host: str, port: int) -> Resource:
    """Makes a Listener: the router listens on host:port for the connectors of its key."""
    return Resource("Listener", checked_label(name, "The listener's name"), _service(routing_key, host, port))


def connector(name: str, routing_key: str, host: str, port: int) -> Resource:
    """Makes a Connector: the router dials host:port for the listeners of its key."""
    return Resource("Connector", checked_label(name, "The connector's name"), _service(routing_key, host, port))


def selector_connector(name: str, routing_key: str, selector: str, port: int) -> Resource:
    """Makes a Connector to the ready pods that a selector names, on Kubernetes."""
    spec = {
        "routingKey": checked_routing_key(routing_key),
        "selector": selector,
        "port": checked_port(port, "The port"),
    }
    return Resource("Connector", checked_label(name, "The connector's name"), {**spec, "type": "tcp"})


def router_access(
    name: str, roles: Mapping[str, int], *, bind_host: str, hosts: Sequence[str], issuer: str = ""
) -> Resource:
    """Makes a RouterAccess: where routers of other sites link in, by role and port, with an authority of its own."""
    for role in roles:
        if role not in LINK_ROLES:
            raise DriverRefused(f"The role {role!r} is not valid: use inter-router or edge.")
    spec: dict[str, object] = {
        "roles": [{"name": role, "port": checked_port(port, "The link port")} for role, port in roles.items()],
        "tlsCredentials": checked_label(name, "The link access's name"),
        "bindHost": checked_host(bind_host, "The link host"),
        "subjectAlternativeNames": [checked_host(host, "The link host") for host in hosts],
    }
    if issuer:
        spec["issuer"] = checked_label(issuer, "The issuer's name")
    return Resource("RouterAccess", name, spec)


def link(name: str, endpoints: Sequence[Endpoint], *, secret: str, cost: int = 1) -> Resource:
    """Makes a Link by the credentials in a Secret."""
    spec = {
        "endpoints": [
            {"name": one.role, "host": checked_host(one.host, "The link's host"), "port": str(one.port)}
            for one in endpoints
        ],
        "tlsCredentials": checked_label(secret, "The secret's name"),
        "cost": cost,
    }
    return Resource("Link", checked_label(name, "The link's name"), spec)


def access_grant(name: str, *, redemptions: int, ttl_s: float) -> Resource:
    """Makes an AccessGrant, on Kubernetes: what a token of one site is redeemed against."""
    spec = {"redemptionsAllowed": redemptions, "expirationWindow": f"{max(1, int(ttl_s))}s"}
    return Resource("AccessGrant", checked_label(name, "The grant's name"), spec)


def _service(routing_key: str, host: str, port: int) -> dict[str, object]:
    return {
        "routingKey": checked_routing_key(routing_key),
        "host": checked_host(host, "The host"),
        "port": checked_port(port, "The port"),
        "type": "tcp",
    }
