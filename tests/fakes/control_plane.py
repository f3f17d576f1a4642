"""A control plane for real Envoys in this process: what the provisioner serves them, without the rest of it."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc

from redoma_kit.envoy_process import CUT_AT_ONCE, secrets_file
from redoma_kit.interceptors.drain import Drain
from redoma_kit.settings import MetricsSettings, TlsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.bootstrap import bootstrap, bootstrap_secrets
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import Publisher
from redoma_provisioner.edge.record import SnapshotRecord
from redoma_provisioner.edge.snapshot import Snapshot
from redoma_provisioner.servicers.discovery import DiscoveryServicer
from redoma_provisioner.settings import ProvisionerSettings
from tests.fakes.model_service import SERVER_OPTIONS
from tests.fakes.server_credentials import server_credentials

ENVOY = Path(__file__).resolve().parents[2] / ".tools" / "venv" / "bin" / "envoy"


def now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


@dataclass(slots=True)
class MemorySnapshots:
    """Keeps the newest snapshot of each Envoy."""

    kept: dict[str, tuple[SnapshotRecord, Snapshot]] = field(default_factory=dict)

    async def add(self, proxy: str, record: SnapshotRecord, snapshot: Snapshot) -> None:
        """See SnapshotStore."""
        self.kept[proxy] = (record, snapshot)

    async def newest(self, proxy: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """See SnapshotStore."""
        return self.kept.get(proxy)

    async def find(self, proxy: str, version: str) -> tuple[SnapshotRecord, Snapshot] | None:
        """See SnapshotStore."""
        return self.kept.get(proxy)

    async def list_records(self, proxy: str) -> Sequence[SnapshotRecord]:
        """See SnapshotStore."""
        return [self.kept[proxy][0]] if proxy in self.kept else []


@dataclass(slots=True)
class ControlPlane:
    """Serves one Envoy."""

    proxy: Proxy
    publisher: Publisher

    @classmethod
    @asynccontextmanager
    async def serving(cls, listen: str, tls: TlsSettings, name: str, peer: str) -> AsyncIterator["ControlPlane"]:
        """Serves the Envoy of that name and SPIFFE id on `listen`."""
        metrics = EdgeMetrics(Telemetry("provisioner", MetricsSettings(), TracingSettings()))
        log = structlog.get_logger()
        proxy = Proxy(name, peer, metrics)
        publisher = Publisher(Encoder(envoy_descriptors()), MemorySnapshots(), now, log)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
            DiscoveryServicer([proxy], Drain(), metrics, now, log), server
        )
        server.add_secure_port(listen, server_credentials(tls))
        await server.start()
        try:
            yield cls(proxy, publisher)
        finally:
            await server.stop(None)

    def refusals(self) -> list[str]:
        """Lists what the Envoy refuses, in its own words."""
        session = self.proxy.session
        return [] if session is None else [one.refusal for one in session.subscriptions.values() if one.refusal]


@dataclass(slots=True)
class RealEnvoy:
    """An Envoy process in a folder of its own, told what changes, or everything each time if not `incremental`."""

    folder: Path
    name: str
    settings: ProvisionerSettings
    workers: int = 2
    process: asyncio.subprocess.Process | None = None
    incremental: bool = True

    async def start(self) -> None:
        """Starts it; it is told what to do by its control plane."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bootstrap.json").write_text(bootstrap(self.settings, self.name, self.incremental))
        (self.folder / secrets_file(self.name)).write_text(bootstrap_secrets(self.settings, self.name))
        options = ["--concurrency", str(self.workers), *CUT_AT_ONCE, "--disable-hot-restart", "-l", "warning"]
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(str(ENVOY), "-c", "bootstrap.json", *options), cwd=self.folder, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self) -> None:
        """Kills it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None


def settings_of(
    role: str, listen: str, tls: TlsSettings, proxies: dict[str, TlsSettings], **more: object
) -> ProvisionerSettings:
    """Gives a provisioner's settings, as far as Envoys are concerned."""
    return ProvisionerSettings.model_validate(
        {
            "role": role,
            "listen": listen,
            "tls": tls.model_dump(),
            "jwks_file": "jwks.json",
            "database_url": "sqlite+aiosqlite:////nowhere.db",
            "proxies": {name: files.model_dump() for name, files in proxies.items()},
            **more,
        }
    )
