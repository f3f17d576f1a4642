"""The edge's configuration in one file, as the provisioner would serve it, for an Envoy without a control plane."""

from collections.abc import Mapping
from typing import Any

from redoma_cli.local.pki import IdentityFiles, server_name
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.resources.edge import edge_snapshot
from redoma_provisioner.edge.snapshot import CLUSTER, LISTENER, ROUTES, SECRET, Config
from redoma_provisioner.settings import EdgeSettings, ProxySettings

LOOPBACK = "127.0.0.1"
UPSTREAMS = ("chat", "tenant", "provisioner", "egress")


def static_edge(
    port: int,
    upstream_ports: Mapping[str, int],
    identity: IdentityFiles,
    admin_socket: str,
    max_stream_s: float = 600.0,
    **more: object,
) -> Config:
    """Gives the configuration of an edge on loopback.

    Args:
        port: Where it listens.
        upstream_ports: Where chat, tenant, provisioner and egress listen, by name; one that is missing is nowhere.
        identity: The edge's certificate and key.
        admin_socket: Name of the Unix socket of its admin interface, in its working directory.
        max_stream_s: The longest a call may last, in seconds.
        more: Other settings of the edge.
    """
    upstreams = {
        name: UpstreamSettings(target=f"{LOOPBACK}:{upstream_ports.get(name, 1)}", server_name=server_name(name))
        for name in UPSTREAMS
    }
    settings = EdgeSettings.model_validate({"listen": f"{LOOPBACK}:{port}", **upstreams, **more})
    files = ProxySettings(ca_file=identity.ca, cert_file=identity.certificate, key_file=identity.key)
    snapshot = edge_snapshot(settings, files, max_stream_s)
    return {
        "node": {"id": "edge", "cluster": "public"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "static_resources": {
            name: [_in_place(config, snapshot.of(ROUTES)) for config in snapshot.of(type_url).values()]
            for name, type_url in (("secrets", SECRET), ("clusters", CLUSTER), ("listeners", LISTENER))
        },
    }


def _in_place(value: Any, routes: Mapping[str, Config]) -> Any:
    """Gives a resource with its routes inside and its secrets among the static ones."""
    if isinstance(value, list | tuple):
        return [_in_place(inner, routes) for inner in value]
    if not isinstance(value, Mapping):
        return value
    config = {key: _in_place(inner, routes) for key, inner in value.items() if key != "sds_config"}
    if "rds" in config:
        config["route_config"] = routes[config.pop("rds")["route_config_name"]]
    return config
