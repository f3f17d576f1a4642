"""An edge and a tenant service with many tenants, and nothing behind them, so that authorization alone is measured."""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import structlog
from envoy.service.auth.v3 import external_auth_pb2_grpc
from sqlalchemy import insert

from redoma_cli.local.envoy import envoy_workers
from redoma_cli.local.home import Home
from redoma_cli.local.pki import DevelopmentAuthority, server_name
from redoma_kit.api_key import digest_of, new_key, prefix_of
from redoma_kit.channel import open_channel
from redoma_kit.database import PLATFORM, Database
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.bootstrap import EDGE
from redoma_provisioner.edge.resources.edge import edge_snapshot
from redoma_provisioner.edge.resources.edge_routes import ROUTE_TABLE
from redoma_provisioner.edge.snapshot import ROUTES, Snapshot
from redoma_provisioner.settings import EdgeSettings
from redoma_tenant.server import MIGRATIONS, SCHEMA
from redoma_tenant.store.schema import API_KEYS, TENANTS
from tests.bench.identities import proxy_files, tls_of
from tests.e2e.conftest import free_port
from tests.fakes.control_plane import ControlPlane, RealEnvoy, settings_of

KEYS_A_TENANT = 10
ROWS_AT_ONCE = 5_000
READY_S, END_S = 60.0, 10.0
MAX_STREAM_S = 600.0
# A path that the tenant service knows, answered by the edge itself, with and without asking it.
ASKED_PATH, FREE_PATH = "/v1/models", "/bench"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NO_MORE = {"content_checks": {"max_input_tokens": 0, "blocked_patterns": []}, "limits": {}, "models": []}


@dataclass(frozen=True, slots=True)
class AuthorizationSite:
    """A running edge and tenant service.

    Attributes:
        authority: Its certificates and the key that signs identities.
        edge_port: Where requests go.
        tenant_port: Where the tenant service listens.
        keys: A key of each of many tenants.
        processes: By name.
    """

    authority: DevelopmentAuthority
    edge_port: int
    tenant_port: int
    keys: Sequence[str]
    processes: dict[str, psutil.Process]

    def channel(self) -> Any:
        """Opens a channel to the tenant service with the edge's certificate."""
        target = UpstreamSettings(target=f"127.0.0.1:{self.tenant_port}", server_name=server_name("tenant"))
        return open_channel(target, tls_of(self.authority, "edge"), 8 << 20)

    def authorization(self, channel: Any) -> "external_auth_pb2_grpc.AuthorizationAsyncStub":
        """Gives the stub that Envoy has."""
        stub: external_auth_pb2_grpc.AuthorizationAsyncStub = external_auth_pb2_grpc.AuthorizationStub(channel)
        return stub

    def cpu_s(self, name: str) -> float:
        """Gives the processor time that a process has used, in seconds."""
        used = self.processes[name].cpu_times()
        return float(used.user + used.system)


@asynccontextmanager
async def authorization_site(folder: Path, tenants: int) -> AsyncIterator[AuthorizationSite]:
    """Fills a database with tenants of KEYS_A_TENANT keys each, starts both processes on it, and ends them."""
    home = Home(folder)
    home.create()
    authority = DevelopmentAuthority(home.pki)
    authority.ensure()
    database_url = f"sqlite+aiosqlite:///{folder}/tenant.db"
    keys = await _fill(database_url, tenants)
    edge_port, tenant_port = free_port(), free_port()
    async with AsyncExitStack() as stack:
        tenant = _start_tenant(home, authority, tenant_port, database_url)
        stack.callback(_end, tenant)
        edge = await _start_edge(home, authority, edge_port, tenant_port, stack)
        await _wait_ready(edge_port, keys[0])
        yield AuthorizationSite(authority, edge_port, tenant_port, keys, {"tenant": tenant, EDGE: edge})


async def _fill(database_url: str, tenants: int) -> list[str]:
    database = Database(database_url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    ids = [f"tenant-{number:05}" for number in range(tenants)]
    keys = [new_key() for _ in range(tenants * KEYS_A_TENANT)]
    rows = [_api_key(ids[number // KEYS_A_TENANT], key) for number, key in enumerate(keys)]
    for table, values in ((TENANTS, [_tenant(tenant) for tenant in ids]), (API_KEYS, rows)):
        for begin in range(0, len(values), ROWS_AT_ONCE):
            async with database.transaction(PLATFORM) as session:
                await session.execute(insert(table), values[begin : begin + ROWS_AT_ONCE])
    await database.close()
    return keys


def _tenant(tenant: str) -> dict[str, object]:
    return NO_MORE | {
        "id": tenant,
        "display_name": tenant,
        "state": "ACTIVE",
        "weight": 100,
        "create_time": CREATED,
        "update_time": CREATED,
        "version": 1,
        "isolation": "SHARED",
        "adapter": "",
        "region": "",
        "retention_s": 0,
        "tuning_consent": False,
        "content_storage": "PUBLIC",
        "at_limit": "",
        "quota_version": 1,
    }


def _api_key(tenant: str, key: str) -> dict[str, object]:
    return {
        "id": secrets.token_hex(8),
        "tenant_id": tenant,
        "display_name": "",
        "prefix": prefix_of(key),
        "digest": digest_of(key),
        "scopes": ["generate", "conversations"],
        "create_time": CREATED,
        "models": [],
        "cidrs": [],
        "limits": {},
        "version": 1,
    }


def _start_tenant(home: Home, authority: DevelopmentAuthority, port: int, database_url: str) -> psutil.Popen:
    files = authority.identity("tenant")
    settings = {
        "listen": f"127.0.0.1:{port}",
        "database_url": database_url,
        "jwks_file": str(authority.jwks),
        "signing_key_file": str(authority.signing_key),
        "tls": {"ca_file": str(files.ca), "cert_file": str(files.certificate), "key_file": str(files.key)},
    }
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    config = home.config / "tenant.toml"
    config.write_text("\n".join(lines) + "\n")
    return _start([sys.executable, "-m", "redoma_tenant", "--config", str(config)], home, "tenant")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return f'"{value}"'


async def _start_edge(
    home: Home, authority: DevelopmentAuthority, port: int, tenant_port: int, stack: AsyncExitStack
) -> psutil.Process:
    """Starts an Envoy that is served what an edge is, and answers for two paths itself."""
    nobody = f"127.0.0.1:{free_port()}"
    control_plane = UpstreamSettings(target=f"127.0.0.1:{free_port()}", server_name=server_name("provisioner"))
    upstreams = {name: UpstreamSettings(target=nobody, server_name=server_name(name)) for name in ("chat", "egress")}
    upstreams["tenant"] = UpstreamSettings(target=f"127.0.0.1:{tenant_port}", server_name=server_name("tenant"))
    settings = EdgeSettings(listen=f"127.0.0.1:{port}", provisioner=control_plane, **upstreams)
    provisioner, files = tls_of(authority, "provisioner"), tls_of(authority, EDGE)
    control = await stack.enter_async_context(
        ControlPlane.serving(control_plane.target, provisioner, EDGE, "spiffe://redoma/public/edge")
    )
    await control.publisher.publish(
        control.proxy, lambda: _answering(edge_snapshot(settings, proxy_files(files), MAX_STREAM_S)), "the bench"
    )
    of_provisioner = settings_of("public", control_plane.target, provisioner, {EDGE: files}, edge=settings.model_dump())
    envoy = RealEnvoy(home.run, EDGE, of_provisioner, envoy_workers(os.cpu_count() or 1))
    stack.push_async_callback(envoy.stop)
    await envoy.start()
    assert envoy.process is not None
    return psutil.Process(envoy.process.pid)


def _answering(snapshot: Snapshot) -> Snapshot:
    """Gives an edge that answers ASKED_PATH once it has asked, and FREE_PATH without."""
    table = snapshot.of(ROUTES)[ROUTE_TABLE]
    (host,) = table["virtual_hosts"]
    without = next(route["typed_per_filter_config"] for route in host["routes"] if "typed_per_filter_config" in route)
    answer = {"status": 200, "body": {"inline_string": "ok\n"}}
    own = [
        {"match": {"path": ASKED_PATH}, "direct_response": answer},
        {"match": {"path": FREE_PATH}, "direct_response": answer, "typed_per_filter_config": without},
    ]
    answering = {**table, "virtual_hosts": [{**host, "routes": [*own, *host["routes"]]}]}
    return Snapshot({**snapshot.resources, ROUTES: {**snapshot.of(ROUTES), ROUTE_TABLE: answering}})


def _start(argv: Sequence[str], home: Home, name: str) -> psutil.Popen:
    with (home.log / f"{name}.log").open("wb") as log:
        return psutil.Popen(argv, stdout=log, stderr=subprocess.STDOUT, cwd=home.run)


def _end(process: psutil.Popen) -> None:
    process.terminate()
    for left in psutil.wait_procs([process], END_S)[1]:
        left.kill()


async def _wait_ready(edge_port: int, key: str) -> None:
    end = time.monotonic() + READY_S
    while not await _admits(edge_port, key):
        if time.monotonic() > end:
            raise RuntimeError("the edge or the tenant service does not become ready")
        await asyncio.sleep(0.1)


async def _admits(port: int, key: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {ASKED_PATH} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in status
