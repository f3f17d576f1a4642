"""What an Envoy of Redoma's is started with. All the rest comes from the control plane.

The certificate with which it calls the control plane is named in a file of its own, so that it is read again when it
was renewed: an Envoy needs what `bootstrap` gives and, beside it in the working directory, what `bootstrap_secrets`
gives, under the name of `redoma_kit.envoy_process.secrets_file`.
"""

import json

from cryptography import x509

from redoma_kit.envoy_process import admin_socket, secrets_file
from redoma_kit.policy import spiffe_id
from redoma_kit.settings import UpstreamSettings
from redoma_kit.tls import SPIFFE_PREFIX
from redoma_provisioner.edge.encoding import BOOTSTRAP, Encoder, envoy_descriptors
from redoma_provisioner.edge.resources.clusters import service_cluster
from redoma_provisioner.edge.resources.tls import IDENTITY, certificate_secret, type_url
from redoma_provisioner.edge.snapshot import SECRET, Config
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.settings import ProvisionerSettings, ProxySettings

CONTROL_PLANE = "control-plane"
EDGE, EGRESS, GATEWAY = "edge", "egress", "gateway"
# Connections from outside that are open at a time; the egress has those of tunnels and of its own pipes too.
MAX_CONNECTIONS = {EDGE: 4_096, EGRESS: 16_384}
_TUNNELS = "envoy.extensions.bootstrap.reverse_tunnel"


def bootstrap_secrets(settings: ProvisionerSettings, proxy: str) -> str:
    """Gives the file that says where an Envoy's identity is, as JSON. It holds no key.

    Raises:
        CannotStart: The settings have no identity of it.
    """
    files = _identity(settings, proxy)
    # Envoy takes one secret from a file, no more.
    secret = certificate_secret(IDENTITY, files.cert_file, files.key_file)
    return json.dumps({"resources": [{"@type": SECRET, **secret}]}, indent=1) + "\n"


def bootstrap(settings: ProvisionerSettings, proxy: str, incremental: bool = True) -> str:
    """Gives the configuration that an Envoy is started with, as JSON.

    Args:
        settings: This service's.
        proxy: EDGE, EGRESS or GATEWAY.
        incremental: Whether it is told what changes, or everything of a type each time.

    Raises:
        CannotStart: The settings have no identity of it, or this service's certificate names no site.
        InvalidSnapshot: An address is not one.
        OSError: This service's certificate can't be read.
    """
    _identity(settings, proxy)
    site = _site(settings)
    config: Config = {
        "node": {"id": proxy, "cluster": site},
        "admin": {"address": {"pipe": {"path": admin_socket(proxy), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if incremental else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [_control_plane_call(site, proxy)],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [_control_plane_cluster(settings, proxy, site)]},
        **_extensions(proxy),
    }
    Encoder(envoy_descriptors()).encode(BOOTSTRAP, proxy, config)
    return json.dumps(config, indent=1) + "\n"


def _identity(settings: ProvisionerSettings, proxy: str) -> ProxySettings:
    if proxy not in settings.proxies:
        raise CannotStart(f"there is no identity of the Envoy {proxy}; set proxies.{proxy}.cert_file and the others.")
    return settings.proxies[proxy]


def _site(settings: ProvisionerSettings) -> str:
    certificate = x509.load_pem_x509_certificate(settings.tls.cert_file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        if name.startswith(SPIFFE_PREFIX):
            return name.removeprefix(SPIFFE_PREFIX).partition("/")[0]
    raise CannotStart(f"{settings.tls.cert_file} names no site; it needs a URI such as spiffe://redoma/public/…")


def _control_plane_cluster(settings: ProvisionerSettings, proxy: str, site: str) -> Config:
    source: Config = {"resource_api_version": "V3", "path_config_source": {"path": f"./{secrets_file(proxy)}"}}
    cluster = service_cluster(CONTROL_PLANE, _control_plane(settings, site), None, source)
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    names = tls.pop("combined_validation_context")["default_validation_context"]
    # Another authority needs another start of the Envoy, another certificate does not.
    tls["validation_context"] = {**names, "trusted_ca": {"filename": str(_identity(settings, proxy).ca_file)}}
    return cluster


def _control_plane(settings: ProvisionerSettings, site: str) -> UpstreamSettings:
    """Gives this service as the Envoys reach it."""
    if settings.edge is not None:
        return settings.edge.provisioner
    return UpstreamSettings(target=settings.listen, server_name=f"provisioner.{site}.redoma")


def _control_plane_call(site: str, proxy: str) -> Config:
    # Where the control plane believes this Envoy of who others are, it asks who itself is.
    own_name = {"key": "x-forwarded-client-cert", "value": f"URI={spiffe_id(site, proxy)}"}
    return {
        "envoy_grpc": {
            "cluster_name": CONTROL_PLANE,
            "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "2s"}},
        },
        "initial_metadata": [own_name],
    }


def _extensions(proxy: str) -> Config:
    extensions: Config = {}
    if proxy == EGRESS:
        extensions["bootstrap_extensions"] = [_tunnel_listener()]
    if proxy == GATEWAY:
        extensions["bootstrap_extensions"] = [_tunnel_dialler()]
    if proxy in MAX_CONNECTIONS:
        monitor = type_url("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig")
        extensions["overload_manager"] = {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {"@type": monitor, "max_active_downstream_connections": MAX_CONNECTIONS[proxy]},
                }
            ]
        }
    return extensions


def _tunnel_listener() -> Config:
    name = f"{_TUNNELS}.upstream_socket_interface.v3.UpstreamReverseConnectionSocketInterface"
    return {
        "name": "envoy.bootstrap.reverse_tunnel.upstream_socket_interface",
        "typed_config": {"@type": type_url(name), "stat_prefix": "tunnels", "enable_detailed_stats": True},
    }


def _tunnel_dialler() -> Config:
    name = f"{_TUNNELS}.downstream_socket_interface.v3.DownstreamReverseConnectionSocketInterface"
    return {
        "name": "envoy.bootstrap.reverse_tunnel.downstream_socket_interface",
        "typed_config": {
            # The descriptors are older than the two intervals.
            "@type": type_url("xds.type.v3.TypedStruct"),
            "type_url": type_url(name),
            "value": {
                "stat_prefix": "tunnels",
                "enable_detailed_stats": True,
                # A broken tunnel is dialled again within about a second.
                "maintain_interval": "0.2s",
                "max_reconnect_backoff": "1s",
            },
        },
    }
