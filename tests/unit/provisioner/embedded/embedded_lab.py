"""The behaviour suite's lab of the embedded driver: real Envoys on loopback, and services that answer health."""

import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma_kit.channel import open_channel
from redoma_kit.envoy_process import admin_socket
from redoma_kit.settings import TlsSettings, UpstreamSettings
from redoma_provisioner.edge.publisher import EgressPublisher, GatewayPublisher
from redoma_provisioner.edge.snapshot import Snapshot
from redoma_provisioner.edge.state import EgressState, Endpoint, Exposed, GatewayState
from redoma_provisioner.network.driver import AdmittedSite, DesiredLink, DesiredNetwork, NetworkDriver
from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.egress_calls import GrpcEgressCalls, Reach
from redoma_provisioner.network.drivers.embedded.link_probe import LinkProbe
from redoma_provisioner.network.drivers.embedded.private import EmbeddedPrivateDriver
from redoma_provisioner.network.drivers.embedded.public import EmbeddedPublicDriver
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels, GatewayTunnels
from redoma_provisioner.settings import ProxySettings
from redoma_provisioner.trust.authority import Authority
from tests.fakes.control_plane import ControlPlane, RealEnvoy, now, settings_of
from tests.fakes.driver_suite import Ability
from tests.fakes.model_service import SERVER_OPTIONS
from tests.fakes.server_credentials import server_credentials
from tests.fakes.trust_parties import identity_files, make_authority

ABILITIES = (Ability.CUT, Ability.RESTART, Ability.CALL, Ability.MATCH)
MAX_STREAM_S = 600.0
MAX_MESSAGE = 4 << 20
PUBLIC = "public"
FLOOD_METHOD, FLOOD_BYTES = "/test.Flood/Pour", 60_000


def proxy_files(tls: TlsSettings) -> ProxySettings:
    """Gives the same files as an Envoy's."""
    return ProxySettings.model_validate(tls.model_dump())


def digest_of(certificate: Path) -> str:
    """Gives the SHA-256 of a certificate's DER, in hex."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()


def free_port() -> int:
    """Gives a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class PrivateEnd:
    """A private site: its gateway, its control plane and its services."""

    identities: Mapping[str, TlsSettings]
    envoy: RealEnvoy
    control: ControlPlane
    publisher: GatewayPublisher
    targets: dict[str, str] = field(default_factory=dict)

    async def publish(self, desired: DesiredNetwork) -> None:
        """Does what the private reconciler does beside the driver."""
        exposed = tuple(Exposed(one.routing_key, _service(one.routing_key), one.target) for one in desired.connectors)
        address = desired.links[0].address if desired.links else ""
        await self.publisher.publish(GatewayState(desired.site, address, exposed), "the test wants it")


@dataclass(slots=True)
class EmbeddedLab:
    """One public site and private ones, made when they are asked for, on this machine's loopback."""

    settle_s = 10.0
    folder: Path
    stack: AsyncExitStack
    authority: Authority
    egress: RealEnvoy
    control: ControlPlane
    publisher: EgressPublisher
    channel: grpc.aio.Channel
    tunnels_port: int
    ends: dict[str, PrivateEnd] = field(default_factory=dict)
    baseline: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator["EmbeddedLab"]:
        """Starts the public site, and stops everything at the end."""
        async with AsyncExitStack() as stack:
            # Paths of Unix sockets are short.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-")))
            authority = make_authority(folder / "authority", now)
            files = {
                service: identity_files(authority, folder / "public" / service, PUBLIC, service)
                for service in ("provisioner", "egress", "chat")
            }
            listen, services, tunnels = (f"127.0.0.1:{free_port()}" for _ in range(3))
            itself = UpstreamSettings(target=listen, server_name="provisioner.public.redoma")
            egress = UpstreamSettings(target=services, server_name="egress.public.redoma")
            settings = settings_of(
                "public",
                listen,
                files["provisioner"],
                {"egress": files["egress"]},
                egress={"listen": services, "tunnels": tunnels},
            )
            peer = "spiffe://redoma/public/egress"
            control = await stack.enter_async_context(
                ControlPlane.serving(listen, files["provisioner"], "egress", peer)
            )
            assert settings.egress is not None
            publisher = EgressPublisher(
                control.publisher,
                control.proxy,
                settings.egress,
                itself,
                proxy_files(files["egress"]),
                MAX_STREAM_S,
                settings.tls.ca_file,
            )
            await publisher.publish(EgressState(), "the test starts")
            envoy = RealEnvoy(folder / "e", "egress", settings)
            stack.push_async_callback(envoy.stop)
            await envoy.start()
            channel = open_channel(egress, files["provisioner"], MAX_MESSAGE)
            stack.push_async_callback(channel.close)
            port = int(tunnels.rpartition(":")[2])
            lab = cls(folder, stack, authority, envoy, control, publisher, channel, port)
            lab.baseline[PUBLIC] = frozenset(_names(control))
            yield lab

    async def public(self) -> NetworkDriver:
        """See DriverLab."""
        tunnels = EgressTunnels(EnvoyAdmin(self.egress.folder / admin_socket("egress")))
        driver = EmbeddedPublicDriver(
            GrpcEgressCalls(self.channel), tunnels, f"127.0.0.1:{self.tunnels_port}", structlog.get_logger()
        )
        self.stack.push_async_callback(driver.close)
        return Publishing(driver, self.publish)

    async def private(self, site: str) -> NetworkDriver:
        """See DriverLab."""
        end = await self.end(site)
        gateway = end.identities["gateway"]
        driver = EmbeddedPrivateDriver(
            GatewayTunnels(EnvoyAdmin(end.envoy.folder / admin_socket("gateway"))),
            LinkProbe(proxy_files(gateway), site, now),
        )
        self.stack.push_async_callback(driver.close)
        return Publishing(driver, end.publish)

    async def publish(self, desired: DesiredNetwork) -> None:
        """Does what the reconciler does beside the driver."""
        endpoints = [Endpoint(one.routing_key, one.site, "gateway") for one in desired.listeners]
        state = EgressState(
            tuple(one for one in endpoints if _service(one.routing_key) == "model"),
            tuple(one for one in endpoints if _service(one.routing_key) != "model"),
            desired.admitted,
        )
        await self.publisher.publish(state, "the test wants it")

    async def end(self, site: str) -> PrivateEnd:
        """Gives a private site, started if there is none."""
        if site not in self.ends:
            folder = self.folder / site
            files = {
                service: identity_files(self.authority, folder / service, site, service)
                for service in ("gateway", "model", "provisioner")
            }
            listen = f"unix:{folder}/p.sock"
            settings = settings_of("private", listen, files["provisioner"], {"gateway": files["gateway"]})
            control = await self.stack.enter_async_context(
                ControlPlane.serving(listen, files["provisioner"], "gateway", f"spiffe://redoma/{site}/gateway")
            )
            envoy = RealEnvoy(folder, "gateway", settings, workers=1)
            self.stack.push_async_callback(envoy.stop)
            publisher = GatewayPublisher(control.publisher, control.proxy, proxy_files(files["gateway"]), MAX_STREAM_S)
            end = PrivateEnd(files, envoy, control, publisher)
            await end.publish(DesiredNetwork(site))
            self.baseline[site] = frozenset(_names(control))
            await envoy.start()
            self.ends[site] = end
        return self.ends[site]

    async def admitted(self, site: str) -> AdmittedSite:
        """See DriverLab."""
        end = await self.end(site)
        return AdmittedSite(site, (digest_of(end.identities["gateway"].cert_file),))

    async def link(self, site: str, resources: str) -> DesiredLink:
        """See DriverLab."""
        return DesiredLink("public", f"127.0.0.1:{self.tunnels_port}", resources)

    async def target(self, site: str, routing_key: str) -> str:
        """See DriverLab."""
        end = await self.end(site)
        if routing_key not in end.targets:
            name = f"s{len(end.targets)}.sock"
            server = grpc.aio.server(options=SERVER_OPTIONS)
            health_pb2_grpc.add_HealthServicer_to_server(_healthy(), server)
            server.add_generic_rpc_handlers([_flood()])
            files = end.identities[_service(routing_key)]
            server.add_secure_port(f"unix:{end.envoy.folder}/{name}", server_credentials(files))
            await server.start()
            self.stack.push_async_callback(server.stop, None)
            end.targets[routing_key] = f"unix:{name}"
        return end.targets[routing_key]

    async def inventory(self) -> Mapping[str, str]:
        """See DriverLab."""
        ends = {PUBLIC: self.control, **{site: end.control for site, end in self.ends.items()}}
        return {
            f"{site} {name}": version
            for site, control in ends.items()
            for name, version in _names(control).items()
            if name not in self.baseline[site]
        }

    async def reaches(self, routing_key: str) -> bool:
        """See DriverLab."""
        return await GrpcEgressCalls(self.channel).reach(routing_key) is Reach.ANSWERS

    async def cut(self, site: str) -> None:
        """See DriverLab."""
        self.ends[site].envoy.send(signal.SIGSTOP)

    async def restore(self, site: str) -> None:
        """See DriverLab."""
        self.ends[site].envoy.send(signal.SIGCONT)

    async def restart(self) -> None:
        """See DriverLab."""
        envoys = [self.egress, *(end.envoy for end in self.ends.values())]
        for envoy in envoys:
            await envoy.stop()
        for envoy in envoys:
            await envoy.start()

    async def put_foreign(self) -> None:
        """See DriverLab."""
        raise NotImplementedError

    async def foreign(self) -> Mapping[str, str]:
        """See DriverLab."""
        raise NotImplementedError

    async def refuse(self, words: str, routing_key: str) -> None:
        """See DriverLab."""
        raise NotImplementedError

    async def take_away(self) -> None:
        """See DriverLab."""
        raise NotImplementedError

    async def bring_back(self) -> None:
        """See DriverLab."""
        raise NotImplementedError


class Publishing:
    """A driver, and the control plane that a reconciler tells at the same time."""

    def __init__(self, driver: NetworkDriver, publish: Callable[[DesiredNetwork], Awaitable[None]]) -> None:
        self._driver = driver
        self._publish = publish
        self.kind = driver.kind
        self.observe = driver.observe
        self.changes = driver.changes
        self.invite = driver.invite
        self.close = driver.close

    async def apply(self, desired: DesiredNetwork) -> None:
        """Applies what is wanted at both."""
        await self._driver.apply(desired)
        await self._publish(desired)


def _service(routing_key: str) -> str:
    return "provisioner" if routing_key.endswith("provisioner") else "model"


def _names(control: ControlPlane) -> Mapping[str, str]:
    served = control.proxy.served
    snapshot = Snapshot({}) if served is None else served.snapshot
    return {
        f"{type_url} {name}": version
        for type_url, versions in snapshot.resource_versions.items()
        for name, version in versions.items()
    }


async def _pour(request: bytes, context: object) -> AsyncIterator[bytes]:
    while True:
        yield bytes(FLOOD_BYTES)


def _flood() -> grpc.GenericRpcHandler:
    """Gives a method that sends without an end, for readers who do not read."""
    service, method = FLOOD_METHOD.strip("/").split("/")
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_stream_rpc_method_handler(_pour)})


def _healthy() -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    for name in ("", "redoma.model.v1.ModelService"):
        servicer._server_status[name] = health_pb2.HealthCheckResponse.SERVING
    return servicer
