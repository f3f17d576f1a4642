"""Identities of the Envoys and of their peers: secrets that name files, and TLS contexts that name secrets.

No key passes through the control plane: an Envoy reads its own files, and reads them again when their folder changes.
"""

from collections.abc import Sequence
from pathlib import Path

from redoma_kit.policy import spiffe_id
from redoma_provisioner.edge.snapshot import Config
from redoma_provisioner.settings import ProxySettings

IDENTITY = "identity"
AUTHORITIES = "authorities"
# A link of this name points to the newest set of a site's files, and is swapped for another at once.
CURRENT = "current"
TLS_1_3 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
BY_DISCOVERY: Config = {"ads": {}, "resource_api_version": "V3"}


def type_url(name: str) -> str:
    """Names the type of an extension's configuration."""
    return f"type.googleapis.com/{name}"


def identity_secrets(files: ProxySettings) -> tuple[Config, ...]:
    """Gives the secrets of an Envoy's own identity: IDENTITY, and AUTHORITIES that it trusts."""
    return (
        certificate_secret(IDENTITY, files.cert_file, files.key_file),
        {
            "name": AUTHORITIES,
            "validation_context": {
                "trusted_ca": {"filename": str(files.ca_file)},
                "watched_directory": {"path": watched_directory(files.ca_file)},
            },
        },
    )


def certificate_secret(name: str, certificate: Path, key: Path) -> Config:
    """Gives the secret of a certificate and its key."""
    return {
        "name": name,
        "tls_certificate": {
            "certificate_chain": {"filename": str(certificate)},
            "private_key": {"filename": str(key)},
            "watched_directory": {"path": watched_directory(certificate)},
        },
    }


def watched_directory(file: Path) -> str:
    """Gives the folder in which something is moved when the file is replaced."""
    for folder in file.parents:
        if folder.name == CURRENT:
            return str(folder.parent)
    return str(file.parent)


def upstream_tls(
    site: str, service: str, server_name: str = "", source: Config = BY_DISCOVERY, alpn: Sequence[str] = ("h2",)
) -> Config:
    """Gives the transport socket of calls to one service of one site, which nobody else can take.

    `server_name` is what it is asked for as; by default the DNS name in its certificate. `source` is where the secrets
    come from.
    """
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": server_name or f"{service}.{site}.redoma",
            "common_tls_context": common_tls([spiffe_id(site, service)], source, alpn),
        },
    }


def downstream_tls(peers: Sequence[str], alpn: Sequence[str] = ("h2",)) -> Config:
    """Gives the transport socket of callers that show one of these SPIFFE ids."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": True,
            # A resumed session is not verified again, so that a revoked certificate would pass.
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": common_tls(peers, BY_DISCOVERY, alpn),
        },
    }


def common_tls(peers: Sequence[str], source: Config, alpn: Sequence[str]) -> Config:
    """Gives the TLS context of an Envoy with its identity, whose peer must have one of these SPIFFE ids."""
    names = [{"san_type": "URI", "matcher": {"exact": peer}} for peer in peers]
    return {
        "alpn_protocols": list(alpn),
        "tls_params": TLS_1_3,
        "tls_certificate_sds_secret_configs": [{"name": IDENTITY, "sds_config": source}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": AUTHORITIES, "sds_config": source},
        },
    }
