"""The public provisioner's network as callers meet it, on a database, with a fake of all that carries it."""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from sqlalchemy import insert

from redoma.provisioner.v1.network_pb2_grpc import NetworkServiceStub, add_NetworkServiceServicer_to_server
from redoma.provisioner.v1.operation_pb2_grpc import OperationServiceStub, add_OperationServiceServicer_to_server
from redoma_kit.channel import open_channel
from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import ResourceNotFound
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.network.rotations import KIND, RotationExecutor, Rotations
from redoma_provisioner.network_parts import NetworkParts
from redoma_provisioner.operation_parts import OperationParts
from redoma_provisioner.operations.operation import Step
from redoma_provisioner.operations.progress import Executor
from redoma_provisioner.policy import PUBLIC_POLICY
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.servicers.network import NetworkServicer
from redoma_provisioner.servicers.operations import OperationServicer
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.store.schema import CERTIFICATES, CONNECTORS, SITES
from redoma_provisioner.store.trust import SqlTrustStore
from redoma_provisioner.trust.bundle import TrustContent
from tests.conftest import TestPki
from tests.fakes.membership_service import FakeEgress
from tests.fakes.memory_network import MemoryPublisher, TrustNumber
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork, Made

CALL_TIMEOUT_S = 30
BOUND_S = 20.0
NETWORK = "/redoma.provisioner.v1.NetworkService/"
OPERATIONS = "/redoma.provisioner.v1.OperationService/"


class FakeRotator:
    """Rotates nothing, step by step, as fast as `go` lets it."""

    steps = (Step("Ask the site for new keys"), Step("Give the site its new certificates", cancellable=False))

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.runs = 0
        self.problem: Exception | None = None

    async def rotate(self, site: str, begin: Callable[[int], Awaitable[None]]) -> None:
        """See Rotator."""
        self.runs += 1
        await begin(0)
        await self.go.wait()
        if self.problem is not None:
            raise self.problem
        await begin(1)


class TrustedExpulsion:
    """Revokes and forgets as trust does, with a bundle that has nothing in it."""

    def __init__(self, database: Database) -> None:
        self._store = SqlTrustStore(database)

    async def revoke(self, site: str) -> None:
        """See Expulsion."""
        await self._store.revoke_site(site, lambda revoked: TrustContent((), {}, tuple(revoked)), datetime.now(UTC))

    async def forget(self, site: str) -> None:
        """See Expulsion."""
        await self._store.forget_site(site)


class UnusedGrants:
    """Stands for the servicer of grants, and says that it was reached."""

    def __getattr__(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            raise ResourceNotFound(f"grants/{method}")

        return call


@dataclass(slots=True)
class NetworkSite:
    """The service, and stubs by caller. Without a URL its database is a SQLite file."""

    pki: TestPki
    folder: Path
    database_url: str = ""
    executors: Mapping[str, Executor] = field(default_factory=dict)
    network: FakeNetwork = field(default_factory=FakeNetwork)
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    trust: TrustNumber = field(default_factory=TrustNumber)
    egress: FakeEgress = field(default_factory=FakeEgress)
    rotator: FakeRotator = field(default_factory=FakeRotator)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    log_text: io.StringIO = field(default_factory=io.StringIO)
    database: Database = field(init=False)
    parts: NetworkParts = field(init=False)
    operations: OperationParts = field(init=False)
    server: GrpcServer = field(init=False)

    async def start(self) -> None:
        """Starts it, also again after `stop`."""
        log: structlog.stdlib.BoundLogger = structlog.wrap_logger(structlog.PrintLogger(self.log_text))
        url = self.database_url or f"sqlite+aiosqlite:///{self.folder}/provisioner.db"
        settings = ProvisionerSettings(
            role="public",
            listen="127.0.0.1:0",
            tls=self.pki.tls("public", "provisioner"),
            jwks_file=self.pki.jwks_file,
            database_url=url,
        )
        self.database = Database(url, log, SCHEMA)
        await self.database.upgrade(MIGRATIONS)
        if not self.egress.port:
            await self.egress.start(self.pki.tls("public", "egress"))
        self._compose(settings, log)
        await self.server.start()
        await self.parts.start()
        self.operations.start()

    def _compose(self, settings: ProvisionerSettings, log: structlog.stdlib.BoundLogger) -> None:
        telemetry = Telemetry("provisioner", settings.metrics, settings.tracing)
        upstream = UpstreamSettings(target=f"127.0.0.1:{self.egress.port}", server_name="egress.public.redoma")
        self.channels["egress of the service"] = egress = open_channel(upstream, settings.tls, 8 << 20)
        self.parts = NetworkParts(
            self.database,
            FakeDriver(self.network, PUBLIC),
            self.publisher,
            egress,
            self.trust,
            TrustedExpulsion(self.database),
            telemetry,
            utc_now,
            asyncio.get_running_loop().time,
            log,
        )
        executors = {KIND: RotationExecutor(self.rotator), **self.executors}
        self.operations = OperationParts(self.database, executors, utc_now, log)
        verifier = IdentityVerifier(settings.jwks_file, "provisioner", lambda: utc_now().timestamp())
        self.server = GrpcServer(settings, PUBLIC_POLICY, ERRORS, verifier, telemetry, log)
        operations = self.operations.operations
        network = NetworkServicer(
            self.parts.sites,
            self.parts.reconciler,
            Rotations(operations, self.rotator),
            UnusedGrants(),  # type: ignore[arg-type]
            self.server.drain,
        )
        self.server.add(
            lambda server: add_NetworkServiceServicer_to_server(network, server),
            "redoma.provisioner.v1.NetworkService",
        )
        servicer = OperationServicer(operations, self.server.drain)
        self.server.add(
            lambda server: add_OperationServiceServicer_to_server(servicer, server),
            "redoma.provisioner.v1.OperationService",
        )

    async def stop(self, grace_s: float = 0.0) -> None:
        """Hangs up and stops it; the sites behind the egress go on."""
        await self.server.stop(grace_s)
        await self.operations.stop()
        await self.parts.stop()
        for channel in self.channels.values():
            await channel.close()
        self.channels.clear()
        await self.database.close()

    async def close(self) -> None:
        """Stops all."""
        await self.stop()
        await self.egress.stop()

    def channel(self, service: str = "edge") -> grpc.aio.Channel:
        """Gives a channel that shows the certificate of a public service."""
        if service not in self.channels:
            target = f"127.0.0.1:{self.server.port}"
            upstream = UpstreamSettings(target=target, server_name="provisioner.public.redoma")
            self.channels[service] = open_channel(upstream, self.pki.tls("public", service), 8 << 20)
        return self.channels[service]

    def call(self, method: str, request: Any, service: str = "edge", **claims: Any) -> Any:
        """Calls a method as a platform operator, by default through the edge."""
        stubs = {NETWORK: NetworkServiceStub, OPERATIONS: OperationServiceStub}
        stub = stubs[method[: method.rindex("/") + 1]](self.channel(service))
        claims = {"method": method, "tenant": "", "scopes": ("platform.admin",)} | claims
        metadata = self.pki.metadata(["provisioner"], **claims)
        return getattr(stub, method.rpartition("/")[2])(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def join(self, site: str, models: int = 1, state: str = "JOINED") -> None:
        """Adds a site to the database as joining does, and its link to the fake network."""
        now = utc_now()
        connectors = [(f"model-{number}", "model") for number in range(models)] + [("provisioner", "provisioner")]
        async with self.database.transaction(PLATFORM) as session:
            await session.execute(insert(SITES).values(_site_row(site, state, now)))
            if state == "JOINED":
                await session.execute(insert(CERTIFICATES).values(_certificate_row(site, now)))
                rows = [_connector_row(site, name, service) for name, service in connectors]
                await session.execute(insert(CONNECTORS), rows)
        for name in ("link/public", *(f"connector/{site}.{name}" for name, _ in connectors)):
            self.network.end(site)[name] = Made("redoma", name, 0)
        self.parts.reconciler.wake(f"site {site} joined")
        self.network.changed()

    async def until(self, check: Callable[[], bool], what: str) -> None:
        """Waits until what people see passes."""
        try:
            async with asyncio.timeout(BOUND_S):
                async for _ in self.parts.reconciler.views.follow():
                    if check():
                        return
        except TimeoutError:
            raise AssertionError(f"never: {what} ({self.parts.reconciler.views.value})") from None

    async def until_linked(self, site: str, linked: bool = True) -> None:
        """Waits until people see that a site is linked, or that it is not any more."""

        def check() -> bool:
            view = self.parts.reconciler.views.value.sites.get(site)
            return view is not None and view.linked is linked

        await self.until(check, f"{site} linked: {linked}")


def utc_now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


def _site_row(site: str, state: str, now: datetime) -> dict[str, object]:
    return {
        "id": site,
        "display_name": "",
        "state": state,
        "driver": DriverKind.FAKE.value,
        "priority": 0,
        "version": 1,
        "create_time": now,
        "join_time": now if state == "JOINED" else None,
        "trust_sequence": 0,
    }


def _certificate_row(site: str, now: datetime) -> dict[str, object]:
    return {
        "serial": site.encode().hex()[:40],
        "site_id": site,
        "service": "gateway",
        "fingerprint": site.encode().hex().ljust(64, "0")[:64],
        "issue_time": now,
        "expire_time": now + timedelta(days=30),
    }


def _connector_row(site: str, name: str, service: str) -> dict[str, object]:
    return {
        "site_id": site,
        "routing_key": f"{site}.{name}",
        "service": service,
        "target": f"unix:{name}.sock",
        "tenant_id": "",
    }
