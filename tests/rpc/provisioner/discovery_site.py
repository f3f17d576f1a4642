"""The control plane of a public site with real Envoys, and stand-ins for what they lead to."""

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceStub,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma.provisioner.v1 import edge_pb2
from redoma.provisioner.v1.edge_pb2_grpc import EdgeServiceStub, add_EdgeServiceServicer_to_server
from redoma_kit.channel import open_channel
from redoma_kit.identity import METADATA_KEY, IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import TlsSettings, UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import EgressPublisher, Publisher, publish_edge
from redoma_provisioner.edge.record import SnapshotStore
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.policy import PUBLIC_POLICY
from redoma_provisioner.servicers.discovery import DiscoveryServicer
from redoma_provisioner.servicers.edge import EdgeServicer
from redoma_provisioner.settings import ProvisionerSettings, ProxySettings
from tests.conftest import TestPki
from tests.fakes.control_plane import RealEnvoy, settings_of
from tests.fakes.model_service import SERVER_OPTIONS
from tests.fakes.server_credentials import server_credentials

BOUND_S = 30.0
MAX_MESSAGE_BYTES = 8 << 20
HOLD, WHO = "/redoma.test.Model/Hold", "/redoma.test.Model/Who"
PROXIES = ("edge", "egress")


def now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)


def free_port() -> int:
    """Gives a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(holds: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> None:
    """Returns once something holds; fails when it does not in time."""
    try:
        async with asyncio.timeout(bound_s):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


class StandIn(grpc.GenericRpcHandler):
    """A model as far as the way to it goes: it says its name, and holds streams until it is told.

    Attributes:
        metadata: What came with the last call.
        go_on: Ends the streams that it holds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.metadata: dict[str, str | bytes] = {}
        self.go_on = asyncio.Event()
        self.port = 0
        self._server = grpc.aio.server(options=SERVER_OPTIONS)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See GenericRpcHandler."""
        if handler_call_details.method == WHO:
            return grpc.unary_unary_rpc_method_handler(self._who)
        if handler_call_details.method == HOLD:
            return grpc.unary_stream_rpc_method_handler(self._hold)
        return None

    async def _who(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        return self.name.encode()

    async def _hold(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self.go_on.wait()
        yield b"last"

    async def start(self, tls: TlsSettings) -> None:
        """Serves, healthy."""
        healths = health.aio.HealthServicer()
        await healths.set(MODEL_HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(healths, self._server)
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_secure_port("127.0.0.1:0", server_credentials(tls))
        await self._server.start()

    async def stop(self) -> None:
        """Stops at once."""
        self.go_on.set()
        await self._server.stop(None)

    def endpoint(self, **more: Any) -> Endpoint:
        """Gives it as an endpoint of the egress."""
        values: dict[str, Any] = {"address": f"127.0.0.1:{self.port}"} | more
        return Endpoint(f"private.{self.name}", "private", "model", **values)


class WitnessedDiscovery(DiscoveryServicer):
    """The service, which remembers the serial number of the certificate that was shown to it last."""

    shown = 0

    def _proxy(self, first: Any, context: Any) -> Proxy:
        (pem,) = context.auth_context()["x509_pem_cert"]
        self.shown = x509.load_pem_x509_certificate(pem).serial_number
        return super()._proxy(first, context)


@dataclass(slots=True)
class DiscoverySite:
    """A control plane, started and stopped at will, and what talks to it."""

    pki: TestPki
    folder: Path
    store: SnapshotStore
    incremental: bool = True
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    services: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    world: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    tunnels: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    nowhere: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    chat: str = ""
    tenant: str = ""
    identities: dict[str, TlsSettings] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(init=False)
    publisher: Publisher = field(init=False)
    server: GrpcServer = field(init=False)
    discovery_service: WitnessedDiscovery = field(init=False)
    telemetry: Telemetry = field(init=False)
    envoys: list[RealEnvoy] = field(default_factory=list)
    stand_ins: list[StandIn] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    log_text: io.StringIO = field(default_factory=io.StringIO)

    @property
    def settings(self) -> ProvisionerSettings:
        """The provisioner's settings."""

        def upstream(service: str, target: str) -> dict[str, str]:
            return {"target": target or self.nowhere, "server_name": f"{service}.public.redoma"}

        return settings_of(
            "public",
            self.listen,
            self.pki.tls("public", "provisioner"),
            {name: self.pki.tls("public", name) for name in PROXIES} | self.identities,
            edge={
                "listen": self.world,
                "chat": upstream("chat", self.chat),
                "tenant": upstream("tenant", self.tenant),
                "provisioner": upstream("provisioner", self.listen),
                "egress": upstream("egress", self.services),
            },
            egress={"listen": self.services, "tunnels": self.tunnels},
        )

    async def start(self) -> None:
        """Starts the control plane, also again after `stop`."""
        settings, log = self.settings, structlog.wrap_logger(structlog.PrintLogger(self.log_text))
        self.telemetry = Telemetry("provisioner", settings.metrics, settings.tracing)
        metrics = EdgeMetrics(self.telemetry)
        self.proxies = {name: Proxy(name, f"spiffe://redoma/public/{name}", metrics) for name in PROXIES}
        self.publisher = Publisher(Encoder(envoy_descriptors()), self.store, now, log)
        verifier = IdentityVerifier(self.pki.jwks_file, "provisioner")
        self.server = GrpcServer(settings, PUBLIC_POLICY, ERRORS, verifier, self.telemetry, log)
        proxies = self.proxies.values()
        self.discovery_service = discovery = WitnessedDiscovery(proxies, self.server.drain, metrics, now, log)
        self.server.add(
            lambda server: add_AggregatedDiscoveryServiceServicer_to_server(discovery, server),
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
        )
        edge = EdgeServicer(proxies, self.store)
        self.server.add(
            lambda server: add_EdgeServiceServicer_to_server(edge, server), "redoma.provisioner.v1.EdgeService"
        )
        for proxy in proxies:
            await self.publisher.resume(proxy)
        await self.server.start()

    async def stop(self) -> None:
        """Stops the control plane alone."""
        await self.server.stop(0)

    async def close(self) -> None:
        """Stops everything."""
        for envoy in self.envoys:
            await envoy.stop()
        for channel in self.channels:
            await channel.close()
        for stand_in in self.stand_ins:
            await stand_in.stop()
        await self.server.stop(0)

    async def publish(self, *replicas: Endpoint, cause: str = "the test wants it") -> None:
        """Has the egress lead to these."""
        settings = self.settings
        assert settings.egress is not None and settings.edge is not None
        publisher = EgressPublisher(
            self.publisher,
            self.proxies["egress"],
            settings.egress,
            settings.edge.provisioner,
            self.files("egress"),
            settings.max_stream_s,
            settings.tls.ca_file,
        )
        await publisher.publish(EgressState(replicas=replicas), cause)

    async def publish_edge(self) -> None:
        """Has the edge served."""
        settings = self.settings
        assert settings.edge is not None
        await publish_edge(
            self.publisher, self.proxies["edge"], settings.edge, self.files("edge"), settings.max_stream_s
        )

    def files(self, proxy: str) -> ProxySettings:
        """Gives the identity files of an Envoy."""
        return self.settings.proxies[proxy]

    async def envoy(self, name: str) -> RealEnvoy:
        """Starts an Envoy."""
        envoy = RealEnvoy(self.folder / name, name, self.settings, workers=1, incremental=self.incremental)
        self.envoys.append(envoy)
        await envoy.start()
        return envoy

    async def model(self, name: str) -> StandIn:
        """Starts a stand-in for a model."""
        stand_in = StandIn(name)
        self.stand_ins.append(stand_in)
        await stand_in.start(self.pki.tls("private", "model"))
        return stand_in

    def channel(self, caller: str, target: str, server: str) -> grpc.aio.Channel:
        """Opens a channel of a service of the public site."""
        upstream = UpstreamSettings(target=target, server_name=f"{server}.public.redoma")
        channel = open_channel(upstream, self.pki.tls("public", caller), MAX_MESSAGE_BYTES)
        self.channels.append(channel)
        return channel

    def discovery(self, caller: str) -> Any:
        """Gives a stub of the discovery service, as that service."""
        return AggregatedDiscoveryServiceStub(self.channel(caller, self.listen, "provisioner"))

    async def who(self, channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> str:
        """Asks whoever the egress chooses for its name."""
        answer: bytes = await channel.unary_unary(WHO)(b"", metadata=metadata, timeout=BOUND_S)
        return answer.decode()

    async def answered(self, channel: grpc.aio.Channel, name: str, bound_s: float = BOUND_S) -> None:
        """Returns once the egress leads to that stand-in."""
        try:
            async with asyncio.timeout(bound_s):
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        if await self.who(channel) == name:
                            return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the egress never led to {name}: {self.log_text.getvalue()[-3000:]}") from None

    async def proxy(self, name: str) -> edge_pb2.Proxy:
        """Asks EdgeService for what it knows of an Envoy."""
        stub = EdgeServiceStub(self.channel("edge", self.listen, "provisioner"))
        answer = await stub.ListProxies(
            edge_pb2.ListProxiesRequest(), metadata=self.as_operator("ListProxies"), timeout=BOUND_S
        )
        return next(proxy for proxy in answer.proxies if proxy.name == f"proxies/{name}")

    def as_operator(self, method: str) -> tuple[tuple[str, str], ...]:
        """Gives metadata of an operator's call of a method of EdgeService."""
        token = self.pki.mint(
            ["provisioner"],
            tenant="",
            scopes=["platform.admin"],
            method=f"/redoma.provisioner.v1.EdgeService/{method}",
        )
        return ((METADATA_KEY, token),)

    def pushes(self, proxy: str) -> float:
        """Counts the responses that an Envoy was sent by this process."""
        return sum(
            sample.value
            for metric in self.telemetry.registry.collect()
            for sample in metric.samples
            if sample.name == "redoma_xds_pushes_total" and sample.labels["proxy"] == proxy
        )


@asynccontextmanager
async def discovery_site(
    pki: TestPki, folder: Path, store: SnapshotStore, incremental: bool = True
) -> AsyncIterator[DiscoverySite]:
    """Gives a site whose control plane serves."""
    site = DiscoverySite(pki, folder, store, incremental)
    await site.start()
    try:
        yield site
    finally:
        await site.close()
