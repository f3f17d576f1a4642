"""A public site and private ones, of real processes: provisioners, Envoys and models, joined by real grants."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma.provisioner.v1 import link_grant_pb2, network_pb2, network_pb2_grpc, operation_pb2_grpc
from redoma_cli.local.toml import Table, render_toml
from redoma_kit.channel import open_channel
from redoma_kit.envoy_process import admin_socket, drain_options, secrets_file
from redoma_kit.settings import TlsSettings, UpstreamSettings
from redoma_kit.tls import channel_credentials
from redoma_provisioner.edge.bootstrap import bootstrap, bootstrap_secrets
from redoma_provisioner.settings import ProvisionerSettings
from tests.conftest import TestPki
from tests.e2e.network.namespaces import PUBLIC, PUBLIC_FROM_HOST, Network
from tests.e2e.network.processes import Process, until

CHECKOUT = Path(__file__).resolve().parents[3]
ENVOY = CHECKOUT / ".tools" / "venv" / "bin" / "envoy"
WEIGHTS = CHECKOUT / ".tools" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROVISIONER_PORT, EGRESS_PORT, EDGE_PORT, VAN_PORT = 7001, 7002, 7003, 7443
EGRESS_WORKERS = 2
MAX_MESSAGE = 16 << 20
ADMIN_SCOPES = ("platform.admin",)


def envoy(name: str, namespace: str, network: Network, folder: Path, settings: Table, workers: int) -> Process:
    """Prepares an Envoy of a site."""
    checked = ProvisionerSettings.model_validate(settings)
    (folder / f"{name}.json").write_text(bootstrap(checked, name))
    (folder / secrets_file(name)).write_text(bootstrap_secrets(checked, name))
    options = [
        "--concurrency",
        str(workers),
        *drain_options(name, checked.max_stream_s),
        "--disable-hot-restart",
        "-l",
        "warning",
    ]
    return Process(name, network.inside(namespace, [str(ENVOY), "-c", f"{name}.json", *options]), folder)


def table(tls: TlsSettings) -> Table:
    """Gives the settings of an identity."""
    return {name: str(path) for name, path in tls.model_dump().items()}


@dataclass(slots=True)
class PublicSite:
    """The public site as far as the network needs it: its provisioner and its egress."""

    folder: Path
    network: Network
    pki: TestPki
    provisioner: Process = field(init=False)
    egress: Process = field(init=False)

    def __post_init__(self) -> None:
        program = [sys.executable, "-m", "redoma_provisioner", "--config", str(self.folder / "provisioner.toml")]
        (self.folder / "provisioner.toml").write_text(render_toml(self.settings))
        self.provisioner = Process("provisioner", self.network.inside(self.network.public, program), self.folder)

    @property
    def settings(self) -> Table:
        """What its provisioner is told."""
        names = {"chat": 1, "tenant": 1, "provisioner": PROVISIONER_PORT, "egress": EGRESS_PORT}
        upstreams = {
            name: {"target": f"{PUBLIC_FROM_HOST}:{port}", "server_name": f"{name}.public.redoma"}
            for name, port in names.items()
        }
        return {
            "role": "public",
            "listen": f"{PUBLIC_FROM_HOST}:{PROVISIONER_PORT}",
            "jwks_file": str(self.pki.jwks_file),
            "database_url": f"sqlite+aiosqlite:///{self.database}",
            "tls": table(self.pki.tls("public", "provisioner")),
            "authority": {"cert_file": str(self.pki.authority.certificate), "key_file": str(self.pki.authority.key)},
            "join": {"address": f"{PUBLIC}:{VAN_PORT}"},
            "edge": {"listen": f"127.0.0.1:{EDGE_PORT}", **upstreams},
            "egress": {
                "listen": f"{PUBLIC_FROM_HOST}:{EGRESS_PORT}",
                "tunnels": f"{PUBLIC}:{VAN_PORT}",
                "admin_socket": str(self.egress_admin),
            },
            "proxies": {name: table(self.pki.tls("public", name)) for name in ("edge", "egress")},
        }

    @property
    def database(self) -> Path:
        """The provisioner's database."""
        return self.folder / "provisioner.db"

    @property
    def egress_admin(self) -> Path:
        """The admin socket of the egress."""
        return self.folder / admin_socket("egress")

    def start(self) -> None:
        """Starts both, and returns when they serve."""
        self.egress = envoy("egress", self.network.public, self.network, self.folder, self.settings, EGRESS_WORKERS)
        self.provisioner.start()
        self.egress.start()
        until(self._serves, "the public site serves")

    def stop(self) -> None:
        """Kills both."""
        self.provisioner.kill()
        self.egress.kill()

    def _serves(self) -> bool:
        self.provisioner.check()
        self.egress.check()
        return all(_answers(PUBLIC_FROM_HOST, port) for port in (PROVISIONER_PORT, EGRESS_PORT))

    def administration(self) -> grpc.Channel:
        """Opens a channel to the provisioner as the edge has one."""
        return grpc.secure_channel(
            f"{PUBLIC_FROM_HOST}:{PROVISIONER_PORT}",
            channel_credentials(self.pki.tls("public", "edge")),
            options=[("grpc.ssl_target_name_override", "provisioner.public.redoma")],
        )

    def calls(self, service: str = "chat") -> grpc.aio.Channel:
        """Opens a channel to the egress as a service of the public site has one."""
        upstream = UpstreamSettings(target=f"{PUBLIC_FROM_HOST}:{EGRESS_PORT}", server_name="egress.public.redoma")
        return open_channel(upstream, self.pki.tls("public", service), MAX_MESSAGE)

    def operator(self, method: str) -> tuple[tuple[str, str], ...]:
        """Gives the identity of an administrator for one method of the provisioner."""
        return self.pki.metadata(["provisioner"], tenant="", scopes=ADMIN_SCOPES, method=method)


@dataclass(slots=True)
class Administrator:
    """An administrator of the network."""

    public: PublicSite
    channel: grpc.Channel

    def call(self, method: str, request: object, service: str = "NetworkService") -> object:
        """Calls a method of the provisioner."""
        stub_of = {
            "NetworkService": network_pb2_grpc.NetworkServiceStub,
            "OperationService": operation_pb2_grpc.OperationServiceStub,
        }[service]
        path = f"/redoma.provisioner.v1.{service}/{method}"
        stub = stub_of(self.channel)
        return getattr(stub, method)(request, metadata=self.public.operator(path), timeout=20)

    def token(self, site: str) -> str:
        """Makes a grant, and gives its token."""
        request = network_pb2.CreateLinkGrantRequest(link_grant=link_grant_pb2.LinkGrant(site=f"sites/{site}"))
        answer = self.call("CreateLinkGrant", request)
        assert isinstance(answer, network_pb2.CreateLinkGrantResponse)
        return answer.token

    def condition(self, site: str, kind: str) -> tuple[int, str, str]:
        """Gives what is said of a site: status, reason and message."""
        answer = self.call("GetSite", network_pb2.GetSiteRequest(name=f"sites/{site}"))
        assert isinstance(answer, network_pb2.GetSiteResponse)
        for condition in answer.site.conditions:
            if condition.type == kind:
                return condition.status, condition.reason, condition.message
        return 0, "", ""

    def is_linked(self, site: str) -> bool:
        """Tells whether a call gets through to a site."""
        return self.condition(site, "Linked")[0] == 1


@dataclass(slots=True)
class PrivateSite:
    """A private site: its provisioner, its gateway, and a model unless it has none."""

    name: str
    folder: Path
    network: Network
    public: PublicSite
    has_model: bool = True
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Its network."""
        return self.network.site(self.name)

    @property
    def membership(self) -> Path:
        """Where its identity lies."""
        return self.folder / "membership"

    @property
    def gateway(self) -> Process:
        """Its Envoy."""
        return self.processes["gateway"]

    @property
    def model(self) -> Process:
        """Its model."""
        return self.processes["model"]

    @property
    def model_key(self) -> str:
        """The routing key of its model."""
        return f"{self.name}.model-0"

    def identity(self, service: str) -> TlsSettings:
        """Gives the files of a service's identity."""
        folder = self.membership / "current" / service
        return TlsSettings(ca_file=folder / "ca.crt", cert_file=folder / "tls.crt", key_file=folder / "tls.key")

    def join(self, token: str) -> None:
        """Joins with a token, in its own network."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "provisioner.toml").write_text(render_toml(self._settings()))
        (self.folder / "model.toml").write_text(render_toml(self._model_settings()))
        argv = self.network.inside(self.namespace, [*self._program("provisioner"), "--join"])
        done = subprocess.run(
            argv, cwd=self.folder, input=token + "\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-800:]}{done.stderr[-800:]}"

    def start(self) -> None:
        """Starts all it has."""
        self.processes = {
            "provisioner": Process(
                "provisioner", self.network.inside(self.namespace, self._program("provisioner")), self.folder
            ),
            "gateway": envoy("gateway", self.namespace, self.network, self.folder, self._settings(), 1),
        }
        if self.has_model:
            # The Envoys and whoever measures them come first.
            program = ["nice", "-n", "10", *self._program("model")]
            self.processes["model"] = Process("model", self.network.inside(self.namespace, program), self.folder)
        for process in self.processes.values():
            process.start()

    def stop(self) -> None:
        """Kills all it has."""
        for process in self.processes.values():
            process.kill()

    def model_serves(self) -> bool:
        """Tells whether its model has loaded its weights, as a neighbour would ask it."""
        tls = self.public.pki.tls("public", "supervisor")
        name = [("grpc.ssl_target_name_override", f"model.{self.name}.redoma")]
        with grpc.secure_channel(f"unix:{self.folder}/model.sock", channel_credentials(tls), options=name) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def forget(self) -> None:
        """Removes all it keeps."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _program(self, service: str) -> Sequence[str]:
        return [sys.executable, "-m", f"redoma_{service}", "--config", str(self.folder / f"{service}.toml")]

    def _settings(self) -> Table:
        exposed = [{"name": "provisioner", "service": "provisioner", "target": "unix:provisioner.sock"}]
        if self.has_model:
            exposed.append({"name": "model-0", "service": "model", "target": "unix:model.sock"})
        return {
            "role": "private",
            "listen": f"unix:{self.folder}/provisioner.sock",
            "jwks_file": str(self.membership / "current" / "jwks.json"),
            "database_url": f"sqlite+aiosqlite:///{self.folder}/provisioner.db",
            "membership_dir": str(self.membership),
            "tls": table(self.identity("provisioner")),
            "proxies": {"gateway": table(self.identity("gateway"))},
            "gateway": {"admin_socket": str(self.folder / admin_socket("gateway"))},
            "exposed": exposed,
        }

    def _model_settings(self) -> Table:
        return {
            "listen": f"unix:{self.folder}/model.sock",
            "jwks_file": str(self.membership / "current" / "jwks.json"),
            "tls": table(self.identity("model")),
            "forwarders": [f"spiffe://redoma/{self.name}/gateway"],
            "file": str(WEIGHTS),
            "name": f"model-of-{self.name}",
            "context_tokens": 1_024,
            "slots": 20,
            "kv_cells": 6_144,
            "threads": 1,
            "host_cache_mib": 0,
        }


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0
