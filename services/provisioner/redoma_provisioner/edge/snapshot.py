"""What an Envoy is served: resources by type and name, as plain values in the shape of Envoy's v3 API."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Config = dict[str, Any]

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type)
# The order in which an Envoy is sent what changed: nothing names what it does not have yet.
TYPES = (SECRET, CLUSTER, ENDPOINTS, LISTENER, ROUTES)


class InvalidSnapshot(Exception):
    """An Envoy can't be served this; the message says why, and names the resource."""


Resources = Mapping[str, Mapping[str, Config]]


def digest(value: object) -> str:
    """Gives a digest of a value of JSON, the same for the same value in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Snapshot:
    """Everything one Envoy is served. The same resources have the same version, in every process and for ever.

    Attributes:
        resources: By type url, then by name.
    """

    resources: Resources

    @cached_property
    def version(self) -> str:
        """Its version: a digest of its resources."""
        return digest(self.resources)

    @cached_property
    def resource_versions(self) -> Mapping[str, Mapping[str, str]]:
        """The version of each resource, by type url, then by name.

        That of endpoints changes with their cluster's: an Envoy that is sent a cluster waits for its endpoints again.
        """
        versions = {
            type_url: {name: digest(config) for name, config in named.items()}
            for type_url, named in self.resources.items()
        }
        of_endpoints = versions.get(ENDPOINTS, {})
        for cluster, endpoints in self.endpoints_of.items():
            if endpoints in of_endpoints:
                of_endpoints[endpoints] = digest([of_endpoints[endpoints], versions[CLUSTER][cluster]])
        return versions

    @cached_property
    def endpoints_of(self) -> Mapping[str, str]:
        """The name of the endpoints of each cluster that has them served, by the cluster's."""
        return {
            name: (cluster.get("eds_cluster_config") or {}).get("service_name") or name
            for name, cluster in self.of(CLUSTER).items()
            if cluster.get("type") == "EDS"
        }

    def of(self, type_url: str) -> Mapping[str, Config]:
        """Gives the resources of one type by name."""
        return self.resources.get(type_url, {})
