"""Endpoints to push to an egress: most lead nowhere, some to a server that says it is a model."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma_cli.local.home import Home
from redoma_cli.local.pki import PUBLIC_SERVICES, DevelopmentAuthority
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.network.driver import AdmittedSite
from tests.bench.identities import tls_of
from tests.fakes.server_credentials import server_credentials

SITE = "private"
MODEL = "model"
LISTENER, TUNNEL = "listener", "tunnel"


@dataclass(frozen=True, slots=True)
class Replicas:
    """The endpoints that an egress is pushed.

    Attributes:
        kind: LISTENER or TUNNEL.
        folder: Where the sockets are that lead to `live`; the first ones lead nowhere.
        live: A socket where somebody answers.
    """

    kind: str
    folder: Path
    live: Path

    def state(self, dead: int, live: int) -> EgressState:
        """Gives what leads to so many that do not answer, and so many that do."""
        endpoints = [self._endpoint(number, number >= dead) for number in range(dead + live)]
        sites = sorted({endpoint.site for endpoint in endpoints}) if self.kind == TUNNEL else ()
        admitted = tuple(AdmittedSite(site, (f"{number:064x}",)) for number, site in enumerate(sites))
        return EgressState(replicas=tuple(endpoints), tunnels=admitted)

    def key(self, number: int) -> str:
        """Gives the routing key of one."""
        return f"{self._site(number)}.model-{number}"

    def _site(self, number: int) -> str:
        # One certificate answers for all that are dialled.
        return f"site-{number:05}" if self.kind == TUNNEL else SITE

    def _endpoint(self, number: int, answers: bool) -> Endpoint:
        if self.kind == TUNNEL:
            return Endpoint(self.key(number), self._site(number), "gateway")
        socket = self.folder / f"{number}.sock"
        if answers and not socket.exists():
            socket.symlink_to(self.live)
        return Endpoint(self.key(number), SITE, "model", address=f"unix:{socket}")


@dataclass(frozen=True, slots=True)
class Live:
    """A server with a model's certificate that answers for its health, and no more.

    Attributes:
        authority: Who made its certificate, and those of a public site.
        socket: Where it listens.
    """

    authority: DevelopmentAuthority
    socket: Path


@asynccontextmanager
async def live_model() -> AsyncIterator[Live]:
    """Serves one."""
    with tempfile.TemporaryDirectory(prefix="rdm-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder))
        home.create()
        authority = DevelopmentAuthority(home.pki, services={**PUBLIC_SERVICES, MODEL: SITE})
        authority.ensure()
        servicer = health.aio.HealthServicer()
        for name in ("", MODEL_HEALTH_SERVICE):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        socket = home.run / "live.sock"
        server.add_secure_port(f"unix:{socket}", server_credentials(tls_of(authority, MODEL)))
        await server.start()
        try:
            yield Live(authority, socket)
        finally:
            await server.stop(None)
