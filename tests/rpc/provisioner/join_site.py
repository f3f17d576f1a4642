"""The part of a public site that lets others join, served as in life: the service, and the egress's port before it."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography.hazmat.primitives import serialization

from redoma.provisioner.v1 import network_pb2_grpc
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import TlsSettings, UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.policy import PUBLIC_POLICY
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.servicers.link_grants import LinkGrantServicer
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.grants import Grants
from redoma_provisioner.trust.wrong_codes import WrongCodes
from tests.conftest import TestPki
from tests.fakes.trust_parties import MovedClock, identity_files, make_authority
from tests.unit.provisioner.trust.joinable import JoinableSite

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
NETWORK = "/redoma.provisioner.v1.NetworkService/"
CALL_TIMEOUT_S = 30
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Servicer(LinkGrantServicer, network_pb2_grpc.NetworkServiceServicer):
    """NetworkService with grants alone."""


@dataclass
class JoinPort:
    """Stands for the egress where sites join: the authority over HTTP/1.1, calls passed on to the service."""

    authority: Authority
    tls: TlsSettings
    upstream_port: int
    moved_date: timedelta = timedelta()
    spoil: Callable[[bytes], bytes] = bytes

    async def start(self) -> None:
        """Begins to listen."""
        self._tasks: set[asyncio.Task[Any]] = set()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.tls.cert_file, self.tls.key_file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Hangs up."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
                await self._pass_on((reader, writer))
            else:
                await self._give_authority(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _give_authority(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /authority.pem HTTP/1.1\r\n")
        body = self.authority.certificate.public_bytes(serialization.Encoding.PEM)
        date = format_datetime(datetime.now(UTC) + self.moved_date, usegmt=True)
        answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\ndate: {date}\r\n\r\n".encode() + body
        writer.write(self.spoil(answer))
        await writer.drain()
        await reader.read()

    async def _pass_on(self, near: Stream) -> None:
        context = ssl.create_default_context(cafile=str(self.tls.ca_file))
        context.load_cert_chain(self.tls.cert_file, self.tls.key_file)
        context.set_alpn_protocols(["h2"])
        far = await asyncio.open_connection(
            "127.0.0.1", self.upstream_port, ssl=context, server_hostname="provisioner.public.redoma"
        )
        try:
            await asyncio.gather(_pump(near[0], far[1]), _pump(far[0], near[1]))
        finally:
            far[1].transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


@dataclass
class JoinSite:
    """The service on a database of its own, with the port for joining."""

    pki: TestPki
    folder: Path
    database_url: str
    clock: MovedClock = field(default_factory=MovedClock)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    async def start(self) -> None:
        """Starts it."""
        url = self.database_url or f"sqlite+aiosqlite:///{self.folder}/provisioner.db"
        self.authority = make_authority(self.folder / "authority", self.clock)
        self.database = Database(url, LOG, SCHEMA)
        await self.database.upgrade(MIGRATIONS)
        self.public = JoinableSite(self.database, self.authority, self.clock)
        self.public.redeemer._wrong_codes = WrongCodes(asyncio.get_running_loop().time)
        settings = ProvisionerSettings(
            role="public",
            listen="127.0.0.1:0",
            tls=self.tls("provisioner"),
            jwks_file=self.pki.jwks_file,
            database_url=url,
        )
        telemetry = Telemetry("provisioner", settings.metrics, settings.tracing)
        verifier = IdentityVerifier(settings.jwks_file, "provisioner")
        self.server = GrpcServer(settings, PUBLIC_POLICY, ERRORS, verifier, telemetry, LOG)
        servicer = Servicer(  # type: ignore[abstract]
            self.public.grants, self.public.redeemer, self.clock
        )
        self.server.add(
            lambda server: network_pb2_grpc.add_NetworkServiceServicer_to_server(servicer, server),
            "redoma.provisioner.v1.NetworkService",
        )
        await self.server.start()
        self.join_port = JoinPort(self.authority, self.tls("egress"), self.server.port)
        await self.join_port.start()
        store = self.public.redeemer._store
        self.public.grants = Grants(
            store,  # type: ignore[arg-type]
            self.address,
            self.authority.digest,
            DriverKind.EMBEDDED,
            self.clock,
            self.public._note_change,
        )
        servicer._grants = self.public.grants

    async def stop(self) -> None:
        """Stops it."""
        for channel in self.channels.values():
            await channel.close()
        await self.join_port.stop()
        await self.server.stop(0.0)
        await self.database.close()

    @property
    def address(self) -> str:
        """Where sites join."""
        return f"127.0.0.1:{self.join_port.port}"

    def tls(self, service: str) -> TlsSettings:
        """Gives the identity of a service of the public site, by the authority that signs for private ones too."""
        return identity_files(self.authority, self.folder / service, "public", service)

    def stub(self, service: str = "edge") -> "network_pb2_grpc.NetworkServiceAsyncStub":
        """Gives a stub that shows the certificate of a public service."""
        if service not in self.channels:
            target = f"127.0.0.1:{self.server.port}"
            upstream = UpstreamSettings(target=target, server_name="provisioner.public.redoma")
            self.channels[service] = open_channel(upstream, self.tls(service), 8 << 20)
        return network_pb2_grpc.NetworkServiceStub(self.channels[service])

    async def call(self, method: str, request: Any, service: str = "edge", **claims: Any) -> Any:
        """Calls a method, by default as an operator through the edge."""
        wanted = {"method": NETWORK + method, "tenant": "", "scopes": ("platform.admin",)} | claims
        metadata = self.pki.metadata(["provisioner"], **wanted)
        return await getattr(self.stub(service), method)(request, metadata=metadata, timeout=CALL_TIMEOUT_S)
