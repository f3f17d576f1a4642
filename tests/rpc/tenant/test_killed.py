"""The `redoma-tenant` process is killed while administrators write, and started again."""

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import func, select

from redoma_kit.channel import open_channel
from redoma_kit.database import PLATFORM, Database
from redoma_kit.settings import UpstreamSettings
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.schema import AUDIT_BEGUN
from tests.conftest import TestPki
from tests.fakes.postgres import BACKENDS, PostgresServer
from tests.rpc.tenant.every_method import ISSUER, Person

PATIENCE_S = 60.0
ROUNDS = 3
WRITERS = 8
# Answers to wait for before the kill, so that some calls are always in the middle.
ANSWERS = 25
ACME = {"parent": "tenants/acme"}


class Process:
    """The service as a process of its own, and the edge's channel to it."""

    def __init__(self, pki: TestPki, folder: Path, database_url: str, port: int) -> None:
        self._pki = pki
        self._port = port
        self._database_url = database_url
        self._bootstrap = folder / "bootstrap.sha256"
        self._bootstrap.write_text(hashlib.sha256(b"none").hexdigest())
        self._child: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None
        self.log = folder / "log"

    @property
    def pki(self) -> TestPki:
        """Whose identities it takes."""
        return self._pki

    async def start(self) -> None:
        """Starts it, and waits until it serves."""
        tls = self._pki.tls("public", "tenant")
        environment = os.environ | {
            "REDOMA_TENANT_LISTEN": f"127.0.0.1:{self._port}",
            "REDOMA_TENANT_TLS__CA_FILE": str(tls.ca_file),
            "REDOMA_TENANT_TLS__CERT_FILE": str(tls.cert_file),
            "REDOMA_TENANT_TLS__KEY_FILE": str(tls.key_file),
            "REDOMA_TENANT_JWKS_FILE": str(self._pki.jwks_file),
            "REDOMA_TENANT_SIGNING_KEY_FILE": str(self._pki.authority.signing_key),
            "REDOMA_TENANT_DATABASE_URL": self._database_url,
        }
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "redoma_tenant", env=environment, stdout=log, stderr=log
            )
        target = UpstreamSettings(target=f"127.0.0.1:{self._port}", server_name="tenant.public.redoma")
        self._channel = open_channel(target, self._pki.tls("public", "edge"), 8 << 20)
        stub = health_pb2_grpc.HealthStub(self._channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE_S)
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return

    def kill(self) -> None:
        """Ends it in the middle of whatever it does."""
        assert self._child is not None
        self._child.kill()

    async def ended(self) -> None:
        """Waits for its end, and hangs up."""
        assert self._child is not None
        assert self._channel is not None
        await self._child.wait()
        await self._channel.close()

    def channel(self) -> grpc.aio.Channel:
        """Gives the channel."""
        assert self._channel is not None
        return self._channel


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/tenant.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def process(pki: TestPki, tmp_path: Path, url: str, free_port: int) -> AsyncIterator[Process]:
    """A running process."""
    process = Process(pki, tmp_path, url, free_port)
    await process.start()
    yield process
    process.kill()
    await process.ended()


class Writer:
    """Administers without end; keeps what it was answered."""

    def __init__(self, operator: Person, number: int, answered: asyncio.Queue[None]) -> None:
        self._operator = operator
        self._number = number
        self._answered = answered
        self.rotated: dict[str, str] = {}
        self.users: list[str] = []
        self.calls = 0

    async def write(self) -> None:
        """Writes until the service is gone."""
        name = (await self._make("CreateApiKey", **ACME, api_key={})).api_key.name
        while True:
            rotated = await self._make("RotateApiKey", name=name)
            self.rotated[name] = rotated.api_key.name
            name = rotated.api_key.name
            subject = f"{self._number} {len(self.users)} {name}"
            user = {"issuer": ISSUER, "subject": subject, "role": "ROLE_MEMBER"}
            self.users.append((await self._make("CreateUser", **ACME, user=user)).user.name)

    async def _make(self, method: str, **fields: Any) -> Any:
        response = await self._operator.made(method, **fields)
        self.calls += 1
        self._answered.put_nowait(None)
        return response


async def everything(operator: Person, method: str, items: str) -> list[Any]:
    """Gives all pages of a list of acme's."""
    found: list[Any] = []
    token = ""
    while True:
        page = await operator.made(method, **ACME, page_size=1_000, page_token=token)
        found += getattr(page, items)
        token = page.next_page_token
        if not token:
            return found


async def begun(url: str) -> int:
    """Counts the calls that are noted as begun, and that will be told of."""
    database = Database(url, structlog.get_logger(), SCHEMA)
    async with database.transaction(PLATFORM) as session:
        found = await session.scalar(select(func.count()).select_from(AUDIT_BEGUN))
    await database.close()
    return int(found or 0)


async def test_nothing_is_written_by_half_and_what_was_answered_is_there(process: Process, url: str) -> None:
    await Person(process).made("CreateTenant", tenant_id="acme")
    rotated: dict[str, str] = {}
    users: set[str] = set()
    answers = 0
    for _ in range(ROUNDS):
        answered: asyncio.Queue[None] = asyncio.Queue()
        writers = [Writer(Person(process), number, answered) for number in range(WRITERS)]
        writing = [asyncio.create_task(writer.write()) for writer in writers]
        for _ in range(ANSWERS):
            await asyncio.wait_for(answered.get(), PATIENCE_S)
        process.kill()
        await process.ended()
        ends = await asyncio.gather(*writing, return_exceptions=True)
        assert all(isinstance(end, grpc.aio.AioRpcError | asyncio.CancelledError) for end in ends), ends
        for writer in writers:
            rotated |= writer.rotated
            users |= set(writer.users)
            answers += writer.calls
        await process.start()
    operator = Person(process)
    keys = {key.name: key for key in await everything(operator, "ListApiKeys", "api_keys")}
    assert {name: keys[name].replaced_by for name in rotated} == rotated
    assert all(key.replaced_by in keys and key.HasField("expire_time") for key in keys.values() if key.replaced_by)
    assert users <= {user.name for user in await everything(operator, "ListUsers", "users")}
    assert (await operator.made("VerifyAuditChain", **ACME)).intact
    entries = await everything(operator, "ListAuditEntries", "audit_entries")
    told = {name for entry in entries if entry.result == "OK" for name in (entry.resource, entry.details.get("made"))}
    assert set(rotated) | users <= told
    made = {user.name for user in await everything(operator, "ListUsers", "users")} | keys.keys()
    assert len(made - told) <= await begun(url), "what was not answered was changed and nobody will tell"
    assert len(entries) >= answers
    assert "Traceback" not in process.log.read_text()
