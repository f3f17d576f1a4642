"""What the supervisor is asked to keep running: a list that `redoma up` writes and the supervisor reads."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from redoma_cli.local.home import Home, write_private

PUBLIC, PRIVATE = "public", "private"
PUBLIC_PROCESSES = ("edge", "chat", "tenant", "egress", "provisioner")
PRIVATE_PROCESSES = ("gateway", "model", "private-provisioner")
GATEWAY = "gateway"
PROXIES = ("edge", "egress", GATEWAY)
# The order in which both sites are taken down: who calls before who is called.
STOP_ORDER = PUBLIC_PROCESSES + PRIVATE_PROCESSES
# The same of a private site alone, where nothing but the model can let running answers finish.
PRIVATE_STOP_ORDER = ("model", "gateway", "private-provisioner")


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """How to ask a process whether it lives and is ready.

    Attributes:
        kind: `grpc` asks the gRPC health service over mutual TLS; `envoy` asks Envoy's admin interface.
        address: host:port or unix:NAME for `grpc`; the name of a Unix socket for `envoy`. Sockets are in the process's
            working directory.
        server_name: The DNS name the process's certificate must carry; unused for `envoy`.
        identity: Directory with the certificate and key to ask with; unused for `envoy`.
    """

    kind: Literal["grpc", "envoy"]
    address: str
    server_name: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of a site.

    Attributes:
        name: What people call it; also the name of its log.
        argv: The command.
        env: Its whole environment.
        probe: How to ask whether it lives.
        fingerprint: Changes when the process must be started anew to follow a changed configuration.
        directory: Its working directory; empty is the home's run directory.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    probe: ProbeSpec
    fingerprint: str
    directory: str = ""

    def working_directory(self, default: Path) -> Path:
        """Gives its working directory; `default` is the home's run directory."""
        return Path(self.directory) if self.directory else default

    @property
    def site(self) -> str:
        """The site it belongs to."""
        return site_of(self.name)


def site_of(process: str) -> str:
    """Gives the site that a process of that name belongs to."""
    return PRIVATE if process in PRIVATE_PROCESSES else PUBLIC


def processes_of(*, public: bool, private: bool, gateway: bool) -> tuple[str, ...]:
    """Gives the processes of the sites that run here; `gateway` says whether the private one's has that Envoy."""
    own = tuple(name for name in PRIVATE_PROCESSES if gateway or name != GATEWAY)
    return (PUBLIC_PROCESSES if public else ()) + (own if private else ())


def stop_order(running: Collection[str]) -> tuple[str, ...]:
    """Gives the order in which these processes end."""
    order = STOP_ORDER if any(site_of(name) == PUBLIC for name in running) else PRIVATE_STOP_ORDER
    return tuple(name for name in order if name in running)


def fingerprint(argv: Sequence[str], settings: Mapping[str, str], files: Sequence[Path]) -> str:
    """Gives a digest of a command, the settings in its environment, and the content of the files it reads at its start.

    Raises:
        OSError: A file can't be read.
    """
    digest = hashlib.sha256(json.dumps([list(argv), sorted(settings.items())]).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def plan_file(home: Home) -> Path:
    """Where the plan lies."""
    return home.run / "plan.json"


def pid_file(home: Home, name: str) -> Path:
    """Where the process of that name is recorded."""
    return home.run / f"{name}.pid"


def log_file(home: Home, name: str) -> Path:
    """Where the process of that name writes."""
    return home.log / f"{name}.log"


def write_plan(home: Home, specs: Sequence[ProcessSpec]) -> None:
    """Replaces the plan.

    Raises:
        OSError: The file can't be written.
    """
    write_private(plan_file(home), (json.dumps([asdict(spec) for spec in specs], indent=2) + "\n").encode())


def read_plan(home: Home) -> list[ProcessSpec]:
    """Reads the plan.

    Raises:
        OSError: There is none.
        ValueError: It can't be read.
    """
    try:
        return [
            ProcessSpec(
                name=str(entry["name"]),
                argv=tuple(entry["argv"]),
                env=dict(entry["env"]),
                probe=ProbeSpec(**entry["probe"]),
                fingerprint=str(entry["fingerprint"]),
                directory=str(entry.get("directory", "")),
            )
            for entry in json.loads(plan_file(home).read_text())
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{plan_file(home)} is not a plan") from error
