"""Turns what a person chose into the private site's configuration. It listens on Unix sockets alone.

Its processes find their identity through `membership/current`, which the provisioner replaces as a whole; none of them
is started anew for that.
"""

from collections.abc import Mapping

from redoma_cli.local.envoy import Bootstraps, admin_socket, envoy_spec
from redoma_cli.local.home import Home
from redoma_cli.local.membership import service_identity
from redoma_cli.local.options import SiteOptions
from redoma_cli.local.pki import server_name
from redoma_cli.local.plan import ProcessSpec
from redoma_cli.local.public_site import database_url, tls_table
from redoma_cli.local.service import Program, service_spec
from redoma_cli.local.toml import Table
from redoma_cli.local.weights import Weights
from redoma_kit.policy import spiffe_id

DEFAULT_SITE = "private"
MODEL_CONNECTOR = "model-0"
GATEWAY = "gateway"


def private_program(home: Home, process: str) -> Program:
    """Gives the program of `model` or `private-provisioner`."""
    service = process.removeprefix("private-")
    return Program(process, service, home.private.config / f"{service}.toml", home.private.run)


def provisioner_settings(home: Home, options: SiteOptions) -> Table:
    """Gives the settings that joining needs; nothing in them depends on which site it becomes."""
    identity = service_identity(home.private.membership, "provisioner")
    return {
        "listen": "unix:provisioner.sock",
        "jwks_file": str(home.private.membership / "current" / "jwks.json"),
        "max_stream_s": options.max_stream_s,
        "role": "private",
        "database_url": database_url(home.private.data / "provisioner.db"),
        "membership_dir": str(home.private.membership),
        "tls": tls_table(identity),
        "proxies": {GATEWAY: tls_table(service_identity(home.private.membership, GATEWAY))},
        "gateway": {"admin_socket": admin_socket(GATEWAY)},
        "exposed": [
            {"name": MODEL_CONNECTOR, "service": "model", "target": "unix:model.sock"},
            {"name": "provisioner", "service": "provisioner", "target": "unix:provisioner.sock"},
        ],
    }


def prepare_private_site(
    home: Home, options: SiteOptions, weights: Weights, environ: Mapping[str, str], site: str, bootstraps: Bootstraps
) -> list[ProcessSpec]:
    """Writes every process's settings and gives the plan for the supervisor; the site has joined as `site`.

    Raises:
        CliError: A bootstrap can't be made.
        OSError: A file can't be written.
    """
    tables = {
        "model": _model(home, options, weights),
        "private-provisioner": provisioner_settings(home, options),
    }
    prober = service_identity(home.private.membership, "supervisor")
    specs = []
    for process, table in tables.items():
        program = private_program(home, process)
        settings = table | {"forwarders": [spiffe_id(site, GATEWAY)]}
        specs.append(service_spec(program, settings, server_name(program.service, site), prober, environ, ()))
    bootstrap = bootstraps(GATEWAY)
    specs.append(envoy_spec(GATEWAY, options.envoy, bootstrap, options.max_stream_s, environ, home.private.run))
    return specs


def _model(home: Home, options: SiteOptions, weights: Weights) -> Table:
    return {
        "listen": "unix:model.sock",
        "jwks_file": str(home.private.membership / "current" / "jwks.json"),
        "max_stream_s": options.max_stream_s,
        "tls": tls_table(service_identity(home.private.membership, "model")),
        "file": str(weights.path),
        "name": weights.name,
        "models_dir": str(home.models),
        "adapters_dir": str(home.adapters),
    }
