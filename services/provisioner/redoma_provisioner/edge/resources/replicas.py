"""The services of private sites as clusters of the egress: models by tenant, and each service by its routing key.

An endpoint with an address is dialled there, and must show the certificate of its site's service. One without is a
Unix socket of the egress itself, which leads into the site's tunnels; TLS is inside those.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from redoma_provisioner.edge.resources.clusters import BUFFER_BYTES, address_of, circuit_breakers, http2
from redoma_provisioner.edge.resources.names import (
    MODEL_HEALTH_SERVICE,
    MODELS,
    models_of,
    replica_cluster,
    replica_pipe,
)
from redoma_provisioner.edge.resources.parts import Parts
from redoma_provisioner.edge.resources.tls import BY_DISCOVERY, type_url, upstream_tls
from redoma_provisioner.edge.snapshot import Config
from redoma_provisioner.edge.state import Endpoint

MAX_RETRIES = 64
# With this a site is used as long as one of its endpoints is healthy: the share that has to be is its inverse.
OVERPROVISIONING_PERCENT = 100_000
_MATCH = "envoy.transport_socket_match"
_PIPE = "pipe"


def replica_parts(replicas: Sequence[Endpoint], others: Sequence[Endpoint]) -> Parts:
    """Gives the clusters and endpoints of the replicas of models, and of other services.

    There is always the cluster of all models, perhaps without endpoints.
    """
    by_tenant: dict[str, list[Endpoint]] = {"": []}
    for endpoint in replicas:
        by_tenant.setdefault(endpoint.tenant, []).append(endpoint)
    groups = [(models_of(tenant) if tenant else MODELS, endpoints) for tenant, endpoints in by_tenant.items()]
    single = [(replica_cluster(endpoint.routing_key), [endpoint]) for endpoint in (*replicas, *others)]
    return Parts(
        clusters=(
            *(_models_cluster(name, endpoints) for name, endpoints in groups),
            *(_cluster(name, endpoints) for name, endpoints in single),
        ),
        endpoints=tuple(_endpoints(name, endpoints) for name, endpoints in groups + single),
    )


def dedicated_tenants(replicas: Iterable[Endpoint]) -> tuple[str, ...]:
    """Lists the tenants that have replicas of their own."""
    return tuple(sorted({endpoint.tenant for endpoint in replicas if endpoint.tenant}))


def _cluster(name: str, endpoints: Sequence[Endpoint]) -> Config:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": BY_DISCOVERY},
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": circuit_breakers(MAX_RETRIES),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        # A revoked site's endpoints go at once, healthy or not.
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": http2(ping_s=1),
        **_transport(endpoints),
    }


def _models_cluster(name: str, endpoints: Sequence[Endpoint]) -> Config:
    cluster = _cluster(name, endpoints)
    cluster["lb_policy"] = "RING_HASH"
    cluster["ring_hash_lb_config"] = {"minimum_ring_size": 1024}
    # No replica gets more than half as much again as the mean, however many conversations hash to it.
    cluster["common_lb_config"]["consistent_hashing_lb_config"] = {"hash_balance_factor": 150}
    cluster["health_checks"] = [
        {
            "timeout": "1s",
            "interval": "1s",
            # An Envoy that was just started has had no traffic.
            "no_traffic_interval": "0.25s",
            "unhealthy_interval": "0.25s",
            "unhealthy_edge_interval": "0.25s",
            "no_traffic_healthy_interval": "1s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            "grpc_health_check": {"service_name": MODEL_HEALTH_SERVICE},
        }
    ]
    cluster["outlier_detection"] = _outlier_detection()
    return cluster


def _outlier_detection() -> Config:
    """Ejects an endpoint that can't be reached, and never one for what it answers: no tenant's calls can have another's
    endpoint taken out."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "1s",
        "max_ejection_time": "5s",
        "max_ejection_percent": 50,
    }


def _transport(endpoints: Sequence[Endpoint]) -> Config:
    """Gives the transport sockets: by each endpoint's own mark, and one that nothing satisfies for what has none."""
    peers = sorted({(endpoint.site, endpoint.service) for endpoint in endpoints if endpoint.address})
    matches: list[Config] = [
        {
            "name": f"{service} of {site}",
            "match": {"peer": f"{site}/{service}"},
            "transport_socket": upstream_tls(site, service),
        }
        for site, service in peers
    ]
    matches.append(
        {
            "name": _PIPE,
            "match": {"peer": _PIPE},
            "transport_socket": {
                "name": "envoy.transport_sockets.raw_buffer",
                "typed_config": {"@type": type_url("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")},
            },
        }
    )
    return {"transport_socket_matches": matches, "transport_socket": upstream_tls("none", "none")}


def _endpoints(name: str, endpoints: Sequence[Endpoint]) -> Config:
    """Gives the endpoints by priority: the lowest number that there is becomes Envoy's 0, the next one its 1."""
    ordered = sorted(endpoints, key=lambda endpoint: (endpoint.priority, endpoint.site, endpoint.routing_key))
    localities: list[Config] = []
    for rank, (_, same_priority) in enumerate(groupby(ordered, key=lambda endpoint: endpoint.priority)):
        for site, of_site in groupby(same_priority, key=lambda endpoint: endpoint.site):
            localities.append(
                {
                    "priority": rank,
                    "locality": {"zone": site},
                    "lb_endpoints": [_endpoint(endpoint) for endpoint in of_site],
                }
            )
    return {
        "cluster_name": name,
        "endpoints": localities,
        "policy": {"overprovisioning_factor": OVERPROVISIONING_PERCENT},
    }


def _endpoint(endpoint: Endpoint) -> Config:
    address = (
        address_of(endpoint.address) if endpoint.address else {"pipe": {"path": replica_pipe(endpoint.routing_key)}}
    )
    peer = f"{endpoint.site}/{endpoint.service}" if endpoint.address else _PIPE
    return {
        "endpoint": {"address": address},
        "metadata": {"filter_metadata": {_MATCH: {"peer": peer}}},
    }
