"""Turns what a person chose into the private site's configuration.

It listens on Unix sockets behind its gateway; where Skupper carries its link there is no gateway, and it listens on
ports of the loopback, which Skupper's router on the same machine dials.

Its processes find their identity through `membership/current`, which the provisioner replaces as a whole; none of them
is started anew for that.
"""

from collections.abc import Mapping

from redoma_cli.local.envoy import Bootstraps, envoy_spec
from redoma_cli.local.home import Home
from redoma_cli.local.membership import service_identity
from redoma_cli.local.options import SiteOptions
from redoma_cli.local.pki import server_name
from redoma_cli.local.plan import GATEWAY, ProcessSpec, pid_file
from redoma_cli.local.ports import LOOPBACK, choose_ports
from redoma_cli.local.process import PidFile
from redoma_cli.local.public_site import database_url, tls_table
from redoma_cli.local.service import Program, service_spec
from redoma_cli.local.toml import Table
from redoma_cli.local.weights import Weights
from redoma_kit.envoy_process import admin_socket
from redoma_kit.policy import spiffe_id

DEFAULT_SITE = "private"
MODEL_CONNECTOR = "model-0"
LISTENING = ("model", "private-provisioner")
# Who calls where there is no gateway.
EGRESS = spiffe_id("public", "egress")


def private_program(home: Home, process: str) -> Program:
    """Gives the program of `model` or `private-provisioner`."""
    service = process.removeprefix("private-")
    return Program(process, service, home.private.config / f"{service}.toml", home.private.run)


def provisioner_settings(home: Home, options: SiteOptions) -> Table:
    """Gives the settings that joining needs; nothing in them depends on which site it becomes.

    Raises:
        CliError: No port is free.
        OSError: A file can't be written.
    """
    identity = service_identity(home.private.membership, "provisioner")
    driver = options.choice.driver
    listen = _addresses(home, options)
    gateway: Table = {
        "proxies": {GATEWAY: tls_table(service_identity(home.private.membership, GATEWAY))},
        "gateway": {"admin_socket": admin_socket(GATEWAY)},
    }
    return {
        "listen": listen["private-provisioner"],
        "jwks_file": str(home.private.membership / "current" / "jwks.json"),
        "max_stream_s": options.max_stream_s,
        "role": "private",
        "database_url": database_url(home.private.data / "provisioner.db"),
        "membership_dir": str(home.private.membership),
        "tls": tls_table(identity),
        **(gateway if driver.has_gateway else {"driver": driver.table}),
        "exposed": [
            {"name": MODEL_CONNECTOR, "service": "model", "target": listen["model"]},
            {"name": "provisioner", "service": "provisioner", "target": listen["private-provisioner"]},
        ],
    }


def prepare_private_site(
    home: Home, options: SiteOptions, weights: Weights, environ: Mapping[str, str], site: str, bootstraps: Bootstraps
) -> list[ProcessSpec]:
    """Writes every process's settings and gives the plan for the supervisor; the site has joined as `site`.

    Raises:
        CliError: A bootstrap can't be made, or no port is free.
        OSError: A file can't be written.
    """
    has_gateway = options.choice.driver.has_gateway
    forwarder = spiffe_id(site, GATEWAY) if has_gateway else EGRESS
    tables = {
        "model": _model(home, options, weights),
        "private-provisioner": provisioner_settings(home, options),
    }
    prober = service_identity(home.private.membership, "supervisor")
    specs = []
    for process, table in tables.items():
        program = private_program(home, process)
        settings = table | {"forwarders": [forwarder]}
        specs.append(service_spec(program, settings, server_name(program.service, site), prober, environ, ()))
    if not has_gateway:
        return specs
    bootstrap = bootstraps(GATEWAY)
    specs.append(envoy_spec(GATEWAY, options.envoy, bootstrap, options.max_stream_s, environ, home.private.run))
    return specs


def _addresses(home: Home, options: SiteOptions) -> Mapping[str, str]:
    """Gives where each process listens, the same at each start: its connector leads there."""
    if options.choice.driver.has_gateway:
        return {process: f"unix:{process.removeprefix('private-')}.sock" for process in LISTENING}
    ports = choose_ports(
        LISTENING,
        home.private.config / "ports.json",
        lambda process: PidFile(pid_file(home, process)).alive() is not None,
    )
    return {process: f"{LOOPBACK}:{port}" for process, port in ports.items()}


def _model(home: Home, options: SiteOptions, weights: Weights) -> Table:
    return {
        "listen": _addresses(home, options)["model"],
        "jwks_file": str(home.private.membership / "current" / "jwks.json"),
        "max_stream_s": options.max_stream_s,
        "tls": tls_table(service_identity(home.private.membership, "model")),
        "file": str(weights.path),
        "name": weights.name,
        "models_dir": str(home.models),
        "adapters_dir": str(home.adapters),
    }
