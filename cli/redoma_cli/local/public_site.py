"""Turns what a person chose into the public site's configuration: a settings file and a command for each process."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redoma_cli.local.envoy import Bootstraps, envoy_spec
from redoma_cli.local.home import Home, write_private
from redoma_cli.local.options import SiteOptions
from redoma_cli.local.pki import DevelopmentAuthority, IdentityFiles, server_name
from redoma_cli.local.plan import ProcessSpec, pid_file
from redoma_cli.local.ports import LOOPBACK, choose_ports
from redoma_cli.local.process import PidFile
from redoma_cli.local.service import Program, service_spec
from redoma_cli.local.toml import Table
from redoma_kit.api_key import digest_of
from redoma_kit.envoy_process import admin_socket

# Each listens on a loopback port of its own.
LISTENING = ("tenant", "chat", "provisioner", "egress")
SERVICES = ("tenant", "provisioner", "chat")
PROXIES = ("egress", "edge")


def public_program(home: Home, service: str) -> Program:
    """Gives the program of one of the public site's services."""
    return Program(service, service, home.config / f"{service}.toml", home.run)


def prepare_public_site(
    home: Home,
    options: SiteOptions,
    environ: Mapping[str, str],
    authority: DevelopmentAuthority,
    first_admin_key: str,
    bootstraps: Bootstraps,
) -> list[ProcessSpec]:
    """Writes every process's settings and gives the plan for the supervisor. The tenant service gets the key's hash.

    `bootstraps` is asked for the Envoys' once the provisioner's settings are written.

    Raises:
        CliError: No port is free, or a bootstrap can't be made.
        OSError: A file can't be written.
    """
    authority.ensure()
    hash_file = home.config / "admin.sha256"
    write_private(hash_file, digest_of(first_admin_key).encode() + b"\n")
    ports = choose_ports(
        LISTENING,
        home.config / "ports.json",
        lambda name: PidFile(pid_file(home, name)).alive() is not None,
        reserved=(options.port, options.van_port),
    )
    tables = {
        "tenant": _tenant(ports, authority, hash_file),
        "provisioner": _provisioner(home, options, ports, authority),
        "chat": _chat(options, ports, authority),
    }
    read_at_start = {
        "tenant": [authority.signing_key, hash_file],
        "provisioner": [authority.certificate, authority.key],
        "chat": [authority.content_key],
    }
    prober = authority.identity("supervisor")
    specs = []
    for service in SERVICES:
        identity = authority.identity(service)
        table = _common(home, service, ports, authority, options) | tables[service]
        files = [identity.ca, identity.certificate, identity.key, *read_at_start[service]]
        program = public_program(home, service)
        specs.append(service_spec(program, table, server_name(service), prober, environ, files))
    # Each is another program's work of a second or so.
    with ThreadPoolExecutor(len(PROXIES)) as pool:
        printed = list(pool.map(bootstraps, PROXIES))
    for proxy, bootstrap in zip(PROXIES, printed, strict=True):
        identity = authority.identity(proxy)
        files = [identity.ca, identity.certificate, identity.key]
        specs.append(envoy_spec(proxy, options.envoy, bootstrap, options.max_stream_s, environ, home.run, files))
    return specs


def database_url(file: Path) -> str:
    """Gives the URL of a database in a file."""
    return f"sqlite+aiosqlite:///{_url_path(file)}"


def tls_table(identity: IdentityFiles) -> Table:
    """Gives the settings of an identity."""
    return {"ca_file": str(identity.ca), "cert_file": str(identity.certificate), "key_file": str(identity.key)}


def _common(
    home: Home, service: str, ports: Mapping[str, int], authority: DevelopmentAuthority, options: SiteOptions
) -> Table:
    return {
        "listen": f"{LOOPBACK}:{ports[service]}",
        "jwks_file": str(authority.jwks),
        "max_stream_s": options.max_stream_s,
        "database_url": database_url(home.data / f"{service}.db"),
        "tls": tls_table(authority.identity(service)),
    }


def _tenant(ports: Mapping[str, int], authority: DevelopmentAuthority, hash_file: Path) -> Table:
    return {
        "signing_key_file": str(authority.signing_key),
        "bootstrap_admin_key_hash_file": str(hash_file),
        **{name: _upstream(name, ports) for name in ("chat", "egress", "provisioner")},
    }


def _chat(options: SiteOptions, ports: Mapping[str, int], authority: DevelopmentAuthority) -> Table:
    return {
        "key_provider": {"kind": "file", "file": str(authority.content_key)},
        "reflection": options.reflection,
        **{name: _upstream(name, ports) for name in ("egress", "tenant")},
    }


def _provisioner(home: Home, options: SiteOptions, ports: Mapping[str, int], authority: DevelopmentAuthority) -> Table:
    edge: Table = {"listen": f"{LOOPBACK}:{options.port}"}
    edge |= {"origins": list(options.origins), "reflection": options.reflection}
    edge |= {name: _upstream(name, ports) for name in ("chat", "tenant", "provisioner", "egress")}
    driver = options.choice.driver
    return {
        **({} if driver.has_gateway else {"driver": driver.table}),
        "role": "public",
        "authority": {"cert_file": str(authority.certificate), "key_file": str(authority.key)},
        "join": {"address": options.van_address},
        "edge": edge,
        "egress": {
            "listen": f"{LOOPBACK}:{ports['egress']}",
            "tunnels": f"{options.van_host}:{options.van_port}",
            "admin_socket": admin_socket("egress"),
        },
        "proxies": {proxy: tls_table(authority.identity(proxy)) for proxy in PROXIES},
    }


def _upstream(service: str, ports: Mapping[str, int]) -> Table:
    return {"target": f"{LOOPBACK}:{ports[service]}", "server_name": server_name(service)}


def _url_path(path: Path) -> str:
    """Gives a path as it stands in a URL, where some characters mean something else."""
    return re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", str(path))
