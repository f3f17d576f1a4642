"""Finds references to resources that are not there, before an Envoy is told of them.

Envoy accepts most of them, and then fails the calls that meet them or waits for what never comes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from redoma_provisioner.edge.encoding import short_type
from redoma_provisioner.edge.snapshot import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    SECRET,
    Config,
    InvalidSnapshot,
    Snapshot,
)

REPLICA_PIPE = "replica-"
_SDS_FIELDS = ("tls_certificate_sds_secret_configs", "validation_context_sds_secret_config")


class DanglingReference(InvalidSnapshot):
    """A resource names one that is not there, or takes what another one has; the message says which and what."""


def check_references(snapshot: Snapshot) -> None:
    """Checks that all that a resource names is in the same snapshot.

    Raises:
        DanglingReference: Something is not.
    """
    problem = next(_problems(snapshot), None)
    if problem is not None:
        raise DanglingReference(problem)


def _problems(snapshot: Snapshot) -> Iterator[str]:
    for type_url, name, wanted_type, wanted in _references(snapshot):
        if wanted not in snapshot.of(wanted_type):
            yield f"{short_type(type_url)} {name} names the {short_type(wanted_type)} {wanted}, which is not there."
    named = {*snapshot.endpoints_of.values()}
    for name in snapshot.of(ENDPOINTS):
        if name not in named:
            yield f"{short_type(ENDPOINTS)} {name} is of no Cluster."
    yield from _address_problems(snapshot)


def _references(snapshot: Snapshot) -> Iterator[tuple[str, str, str, str]]:
    """Gives type and name of each resource that names another one, with that one's type and name."""
    for name, endpoints in snapshot.endpoints_of.items():
        yield CLUSTER, name, ENDPOINTS, endpoints
    for type_url in (CLUSTER, LISTENER, ROUTES):
        for name, config in snapshot.of(type_url).items():
            for wanted_type, wanted in _named_in(config):
                yield type_url, name, wanted_type, wanted


def _named_in(value: object) -> Iterator[tuple[str, str]]:
    """Gives type and name of all that is named anywhere in a resource."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named_by(key, inner)
            yield from _named_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named_in(inner)


def _named_by(key: str, value: object) -> Iterator[tuple[str, str]]:
    if key in ("route", "envoy_grpc", "tcp_proxy") and isinstance(value, Mapping):
        yield from _clusters_in(value)
    elif key == "typed_config" and isinstance(value, Mapping) and "cluster" in value:
        yield CLUSTER, str(value["cluster"])
    elif key == "rds" and isinstance(value, Mapping):
        yield ROUTES, str(value.get("route_config_name"))
    elif key == "cluster_min_healthy_percentages" and isinstance(value, Mapping):
        for cluster in value:
            yield CLUSTER, str(cluster)
    elif key in _SDS_FIELDS:
        for config in value if isinstance(value, list) else [value]:
            if isinstance(config, Mapping) and "ads" in config.get("sds_config", {}):
                yield SECRET, str(config.get("name"))


def _clusters_in(action: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key in ("cluster", "cluster_name"):
        if key in action:
            yield CLUSTER, str(action[key])
    weighted = action.get("weighted_clusters")
    if isinstance(weighted, Mapping):
        for part in weighted.get("clusters", []):
            yield CLUSTER, str(part["name"])
    mirrors = action.get("request_mirror_policies")
    for mirror in mirrors if isinstance(mirrors, list) else []:
        yield CLUSTER, str(mirror["cluster"])


def _address_problems(snapshot: Snapshot) -> Iterator[str]:
    listeners = {name: _address(listener) for name, listener in snapshot.of(LISTENER).items()}
    for address, count in Counter(listeners.values()).items():
        if address and count > 1:
            names = " and ".join(sorted(name for name, other in listeners.items() if other == address))
            yield f"{short_type(LISTENER)} {names} listen on the same address, {address}."
    pipes = {*listeners.values()}
    for name, config in snapshot.of(ENDPOINTS).items():
        for endpoint in _endpoint_addresses(config):
            path = endpoint.get("pipe", {}).get("path", "")
            if path.startswith(REPLICA_PIPE) and f"unix:{path}" not in pipes:
                yield f"{short_type(ENDPOINTS)} {name} names the socket {path}, on which no {short_type(LISTENER)} is."


def _endpoint_addresses(config: Config) -> Iterator[Config]:
    for locality in config.get("endpoints", []):
        for endpoint in locality.get("lb_endpoints", []):
            yield endpoint["endpoint"]["address"]


def _address(listener: Config) -> str:
    address = listener.get("address", {})
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    if "socket_address" in address:
        return f"{address['socket_address']['address']}:{address['socket_address'].get('port_value', 0)}"
    return ""
