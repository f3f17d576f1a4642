"""The small deployment behind a real Envoy with the edge's configuration, served by a thread of its own."""

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from envoy.service.auth.v3 import external_auth_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma.chat.v1 import conversation_pb2_grpc, message_pb2_grpc, openai_pb2_grpc
from redoma.model.v1 import engine_pb2_grpc
from redoma.tenant.v1 import (
    api_key_pb2_grpc,
    audit_pb2_grpc,
    privacy_pb2_grpc,
    quota_pb2_grpc,
    tenant_pb2_grpc,
    usage_pb2_grpc,
    user_pb2_grpc,
)
from redoma_cli.local.home import Home
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.ports import LOOPBACK, choose_ports
from redoma_cli.local.probe import EnvoyAdmin, EnvoyProbe
from redoma_cli.local.process import RunningProcess
from redoma_kit.envoy_process import admin_socket
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from tests.conftest import SITES
from tests.fakes.static_edge import static_edge
from tests.unit.cli.conformance import chatting, tenancy
from tests.unit.cli.conformance.gate import Gate
from tests.unit.cli.conformance.world import World
from tests.unit.cli.edge_site import await_answer, envoy_binary

NAMES = ("chat", "tenant", "egress")
GENEROUS_S = 60.0


@dataclass
class DoubleSite:
    """A running small deployment."""

    url: str
    loop: asyncio.AbstractEventLoop
    holders: list[tenancy.Servicer | Gate]

    def become(self, world: World) -> World:
        """Serves another world from here on."""

        def change() -> None:
            for holder in self.holders:
                holder.world = world

        self.loop.call_soon_threadsafe(change)
        return world


async def register(server: grpc.aio.Server, world: World) -> list[tenancy.Servicer | Gate]:
    """Gives a server all services; the edge asks each for its own alone."""
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set(MODEL_HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    holders: list[tenancy.Servicer | Gate] = []
    pairs: tuple[tuple[type, Callable[..., None]], ...] = (
        (Gate, external_auth_pb2_grpc.add_AuthorizationServicer_to_server),
        (tenancy.Tenants, tenant_pb2_grpc.add_TenantServiceServicer_to_server),
        (tenancy.ApiKeys, api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server),
        (tenancy.Users, user_pb2_grpc.add_UserServiceServicer_to_server),
        (tenancy.Quotas, quota_pb2_grpc.add_QuotaServiceServicer_to_server),
        (tenancy.UsageOfTenants, usage_pb2_grpc.add_UsageServiceServicer_to_server),
        (tenancy.Audit, audit_pb2_grpc.add_AuditServiceServicer_to_server),
        (tenancy.Privacy, privacy_pb2_grpc.add_PrivacyServiceServicer_to_server),
        (chatting.Conversations, conversation_pb2_grpc.add_ConversationServiceServicer_to_server),
        (chatting.Chat, message_pb2_grpc.add_ChatServiceServicer_to_server),
        (chatting.OpenAI, openai_pb2_grpc.add_OpenAIServiceServicer_to_server),
        (chatting.Engine, engine_pb2_grpc.add_EngineServiceServicer_to_server),
    )
    for servicer, add in pairs:
        held = servicer(world)
        add(held, server)
        holders.append(held)
    return holders


async def serve(
    world: World, ports: dict[str, int], authority: DevelopmentAuthority
) -> tuple[list[grpc.aio.Server], list[tenancy.Servicer | Gate]]:
    """Starts a server for each name, mutual TLS as in production."""
    servers, holders = [], []
    for name in NAMES:
        files = authority.identity(name)
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
        holders += await register(server, world)
        credentials = grpc.ssl_server_credentials(
            [(files.key.read_bytes(), files.certificate.read_bytes())], files.ca.read_bytes(), require_client_auth=True
        )
        server.add_secure_port(f"{LOOPBACK}:{ports[name]}", credentials)
        await server.start()
        servers.append(server)
    return servers, holders


def careless(config: bytes) -> bytes:
    """Gives an edge's configuration that lets the header of identities in, and keeps deadlines to itself."""
    whole = json.loads(config)
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [
        each for each in manager["http_filters"] if each["name"] != "envoy.filters.http.header_mutation"
    ]
    lua = next(each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.lua")
    script = lua["typed_config"]["default_source_code"]["inline_string"]
    open_ = script.replace("local PASSED_ON = {", 'local PASSED_ON = {\n  ["redoma-identity"] = true,')
    open_ = open_.replace('["grpc-timeout"] = true, ', "")
    # It is longer than other headers may be.
    open_ = open_.replace("LONGEST_HEADER, LONGEST_PATH = 512, 2048", "LONGEST_HEADER, LONGEST_PATH = 4096, 2048")
    assert open_.count("4096") == 1 and "redoma-identity" in open_
    lua["typed_config"]["default_source_code"]["inline_string"] = open_
    return json.dumps(whole).encode()


@contextmanager
def running_double(folder: Path, alter: Callable[[bytes], bytes] = bytes) -> Iterator[DoubleSite]:
    """Runs a small deployment; `alter` may change the edge's configuration."""
    home = Home(folder)
    home.create()
    authority = DevelopmentAuthority(home.pki, services=SITES)
    authority.ensure()
    ports = choose_ports(["edge", *NAMES], home.run / "ports.json", lambda name: False)
    rendered = json.dumps(static_edge(ports["edge"], ports, authority.identity("edge"), admin_socket("edge"))).encode()
    config = home.config / "envoy.json"
    config.write_bytes(alter(rendered))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers, holders = asyncio.run_coroutine_threadsafe(serve(World(), ports, authority), loop).result(GENEROUS_S)
    argv = [envoy_binary(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    envoy = RunningProcess.start(argv, {}, home.run, home.log / "edge.log")
    try:
        await_answer(envoy, EnvoyProbe(EnvoyAdmin(home.run / admin_socket("edge"))), home.log / "edge.log")
        yield DoubleSite(f"http://{LOOPBACK}:{ports['edge']}", loop, holders)
    finally:
        envoy.send(signal.SIGKILL)
        envoy.ended(GENEROUS_S)
        for server in servers:
            asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(GENEROUS_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(GENEROUS_S)
