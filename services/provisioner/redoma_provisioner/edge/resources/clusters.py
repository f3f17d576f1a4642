"""Services that an Envoy calls, as clusters: mutual TLS 1.3, pings, bounded queues."""

import ipaddress
import re

from redoma_kit.addresses import split_address
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.resources.stream_manager import windows
from redoma_provisioner.edge.resources.tls import type_url, upstream_tls
from redoma_provisioner.edge.snapshot import Config, InvalidSnapshot

BUFFER_BYTES = 1 << 20
MAX_REQUESTS = 4096
UNIX = "unix:"
_SERVER_NAME = re.compile(r"([a-z][a-z0-9-]*)\.([a-z][a-z0-9-]*)\.redoma")


class InvalidAddress(InvalidSnapshot):
    """An address in the settings is not one; the message says how it should look."""


def service_cluster(
    name: str, upstream: UpstreamSettings, health_service: str | None = None, source: Config | None = None
) -> Config:
    """Gives the cluster of a service of this site.

    Args:
        name: The cluster's name.
        upstream: Where the service is and which name its certificate has, such as chat.public.redoma.
        health_service: The service to ask gRPC health for, empty for the server; None checks no health.
        source: Where the secrets come from, if not from discovery.
    """
    service, site = service_and_site(upstream.server_name)
    tls = upstream_tls(site, service) if source is None else upstream_tls(site, service, source=source)
    cluster: Config = {
        "name": name,
        **fixed_endpoint(name, upstream.target),
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": circuit_breakers(max_retries=0),
        # With one endpoint, routing to an unhealthy one in a panic would only make callers wait.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": http2(ping_s=2),
        "transport_socket": tls,
    }
    if health_service is not None:
        cluster["health_checks"] = [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_interval": "0.25s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": health_service} if health_service else {},
            }
        ]
    return cluster


def service_and_site(server_name: str) -> tuple[str, str]:
    """Reads service and site out of a DNS name such as chat.public.redoma.

    Raises:
        InvalidAddress: It is no such name.
    """
    match = _SERVER_NAME.fullmatch(server_name)
    if match is None:
        raise InvalidAddress(f"{server_name!r} is no name of a service; one looks like chat.public.redoma.")
    return match[1], match[2]


def fixed_endpoint(name: str, target: str) -> Config:
    """Gives the part of a cluster that says where its one endpoint is, by address or by a name to look up."""
    return {
        "type": "STATIC" if target.startswith(UNIX) or _is_ip(host_and_port(target)[0]) else "STRICT_DNS",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address_of(target)}}]}],
        },
    }


def address_of(target: str) -> Config:
    """Gives the address of "unix:NAME" or "HOST:PORT".

    Raises:
        InvalidAddress: It is neither.
    """
    if target.startswith(UNIX):
        return {"pipe": {"path": target.removeprefix(UNIX)}}
    host, port = host_and_port(target)
    return {"socket_address": {"address": host, "port_value": port}}


def host_and_port(target: str) -> tuple[str, int]:
    """Splits "HOST:PORT" or "[IPv6]:PORT".

    Raises:
        InvalidAddress: It is neither.
    """
    try:
        return split_address(target)
    except ValueError:
        raise InvalidAddress(f"{target!r} is no address; one looks like 127.0.0.1:8443.") from None


def circuit_breakers(max_retries: int) -> Config:
    """Bounds what waits for a service."""
    return {
        "thresholds": [
            {
                "max_connections": 1024,
                "max_pending_requests": 1024,
                "max_requests": MAX_REQUESTS,
                "max_retries": max_retries,
            }
        ]
    }


def http2(ping_s: int) -> Config:
    """Gives the options of a cluster that speaks HTTP/2, and pings each `ping_s` seconds to notice a dead peer."""
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {
                "http2_protocol_options": {
                    **windows(),
                    "connection_keepalive": {"interval": f"{ping_s}s", "timeout": f"{ping_s}s"},
                }
            },
        }
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
