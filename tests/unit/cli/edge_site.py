"""A real Envoy with the edge's configuration, between a real client and stand-ins for the services behind it."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.api import httpbody_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma.chat.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    message_pb2,
    message_pb2_grpc,
    openai_pb2,
    openai_pb2_grpc,
)
from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from redoma_cli.local.home import Home, find_checkout
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.ports import LOOPBACK, choose_ports
from redoma_cli.local.probe import Answer, EnvoyAdmin, EnvoyProbe
from redoma_cli.local.process import RunningProcess
from redoma_kit.envoy_process import admin_socket
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from tests.conftest import SITES
from tests.fakes.static_edge import static_edge

GENEROUS_S = 60.0
EMBEDDING_PIECES, EMBEDDING_PIECE_BYTES = 320, 65_536
USED_UP = {"x-should-retry": "false", "x-ratelimit-limit-tokens": "600", "x-ratelimit-remaining-tokens": "0"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    created = Home(tmp_path / "home")
    created.create()
    return created


@pytest.fixture
def authority(home: Home) -> DevelopmentAuthority:
    """An authority with everything made."""
    made = DevelopmentAuthority(home.pki, services=SITES)
    made.ensure()
    return made


def envoy_binary() -> str:
    """The Envoy that `make test` installed."""
    checkout = find_checkout()
    assert checkout is not None
    binary = checkout / ".tools" / "venv" / "bin" / "envoy"
    return (
        str(binary)
        if binary.exists()
        else shutil.which("envoy") or pytest.fail("envoy is not installed; run make test")
    )


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    reason: str,
    openai: str = "",
    retry_after: str = "",
    more: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Ends a call as the services do: an ErrorInfo in the status, OpenAI's error, retry-after and more in trailers."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain="redoma", reason=reason))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if openai:
        trailers.append(("redoma-openai-error", quote(openai, safe=' {}":,[]')))
    if retry_after:
        trailers.append(("retry-after", retry_after))
    trailers += more.items()
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code, message)


@dataclass
class StandIns(
    openai_pb2_grpc.OpenAIServiceServicer,
    conversation_pb2_grpc.ConversationServiceServicer,
    message_pb2_grpc.ChatServiceServicer,
    external_auth_pb2_grpc.AuthorizationServicer,
    engine_pb2_grpc.EngineServiceServicer,
):
    """Plays chat, tenant and model; keeps what reached it."""

    seen: list[dict[str, str | bytes]] = field(default_factory=list)
    # Seconds left of each call's deadline when it arrived; None without one.
    remaining_s: list[float | None] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    first_sent: futures.Future[None] = field(default_factory=futures.Future)
    go_on: futures.Future[None] = field(default_factory=futures.Future)

    def Check(
        self, request: external_auth_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> external_auth_pb2.CheckResponse:
        http = request.attributes.request.http
        self.asked.append(dict(http.headers))
        response = external_auth_pb2.CheckResponse()
        if http.headers.get("authorization") == "Bearer good":
            header = response.ok_response.headers.add().header
            header.key, header.value = "redoma-identity", "signed"
            return response
        response.status.code = 16
        if http.headers.get("content-type", "").startswith("application/grpc"):
            header = response.denied_response.headers.add().header
            header.key, header.value = "content-type", http.headers["content-type"]
        response.denied_response.status.CopyFrom(http_status_pb2.HttpStatus(code=http_status_pb2.Unauthorized))
        response.denied_response.body = (
            '{"error": {"message": "Incorrect API key", "type": "mine", "code": "invalid_api_key"}}'
        )
        return response

    def Note(self, context: grpc.ServicerContext) -> None:
        self.seen.append(dict(context.invocation_metadata()))
        self.remaining_s.append(context.time_remaining())

    def ListConversations(
        self, request: conversation_pb2.ListConversationsRequest, context: grpc.ServicerContext
    ) -> conversation_pb2.ListConversationsResponse:
        self.Note(context)
        return conversation_pb2.ListConversationsResponse(next_page_token="seen")

    def SendMessage(
        self, request: message_pb2.SendMessageRequest, context: grpc.ServicerContext
    ) -> Iterator[message_pb2.SendMessageResponse]:
        self.Note(context)
        yield message_pb2.SendMessageResponse(started=message_pb2.AnswerStarted())
        self.first_sent.set_result(None)
        self.go_on.result(GENEROUS_S)
        yield message_pb2.SendMessageResponse(done=message_pb2.AnswerDone())

    def ListModels(self, request: openai_pb2.ListModelsRequest, context: grpc.ServicerContext) -> httpbody_pb2.HttpBody:
        self.Note(context)
        return httpbody_pb2.HttpBody(content_type="application/json", data=b'{"object":"list"}')

    def GetModel(self, request: openai_pb2.GetModelRequest, context: grpc.ServicerContext) -> httpbody_pb2.HttpBody:
        self.Note(context)
        refuse(context, grpc.StatusCode.NOT_FOUND, f'No model "{request.model}"\n\\ é', "MODEL_NOT_FOUND")
        raise AssertionError

    def Ask(self, request: httpbody_pb2.HttpBody, context: grpc.ServicerContext) -> httpbody_pb2.HttpBody:
        self.Note(context)
        return httpbody_pb2.HttpBody(content_type="application/json", data=b'{"answer": %d}' % len(request.data))

    def CreateChatCompletion(
        self, request: httpbody_pb2.HttpBody, context: grpc.ServicerContext
    ) -> Iterator[httpbody_pb2.HttpBody]:
        self.Note(context)
        body = json.loads(request.data)
        if body.get("full"):
            if body.get("early"):
                context.send_initial_metadata((("x-early", "yes"),))
            error = '{"error": {"message": "full", "type": "rate_limit_error", "param": null, "code": "queue_full"}}'
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", error, "7")
        if body.get("used_up"):
            if body.get("early"):
                context.send_initial_metadata((("x-early", "yes"),))
            error = '{"error": {"message": "used up", "type": "x", "param": null, "code": "insufficient_quota"}}'
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "x", "QUOTA_EXCEEDED", error, more=USED_UP)
        if body.get("fail"):
            context.send_initial_metadata((("x-early", "yes"),) if body.get("early") else ())
            error = (
                '{"error": {"message": "50% \\"too long\\" é\\n", "type": "invalid_request_error",'
                ' "param": "messages", "code": "context_length_exceeded"}}'
            )
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "too long", "PROMPT_TOO_LONG", error)
        yield httpbody_pb2.HttpBody(content_type="text/event-stream", data=b"data: 1\n\n")
        self.first_sent.set_result(None)
        self.go_on.result(GENEROUS_S)
        yield httpbody_pb2.HttpBody(data=b"data: [DONE]\n\n")

    def CreateEmbedding(
        self, request: httpbody_pb2.HttpBody, context: grpc.ServicerContext
    ) -> Iterator[httpbody_pb2.HttpBody]:
        self.Note(context)
        if json.loads(request.data).get("purge"):
            error = '{"error": {"message": "purged", "type": "conflict_error", "param": null, "code": "tenant_purged"}}'
            refuse(context, grpc.StatusCode.ABORTED, "purged", "TENANT_PURGED", error)
        yield httpbody_pb2.HttpBody(content_type="application/json", data=b'{"data":"')
        for _ in range(EMBEDDING_PIECES):
            yield httpbody_pb2.HttpBody(content_type="application/json", data=b"x" * EMBEDDING_PIECE_BYTES)
        yield httpbody_pb2.HttpBody(content_type="application/json", data=b'"}')

    def GetEngineState(
        self, request: engine_pb2.GetEngineStateRequest, context: grpc.ServicerContext
    ) -> engine_pb2.GetEngineStateResponse:
        self.Note(context)
        return engine_pb2.GetEngineStateResponse(state=engine_pb2.EngineState(dedicated_tenant="seen"))


@dataclass(frozen=True)
class Edge:
    """An edge that serves, and what stands behind it."""

    port: int
    services: StandIns
    health: health.HealthServicer
    admin: EnvoyAdmin
    envoy: RunningProcess
    tenant: grpc.Server
    log: Path

    @property
    def address(self) -> str:
        """host:port of the edge."""
        return f"{LOOPBACK}:{self.port}"


def serve(
    stand_ins: StandIns, healths: health.HealthServicer, port: int, authority: DevelopmentAuthority, name: str
) -> grpc.Server:
    """Starts a server with the identity of `name`, mutual TLS as in production."""
    files = authority.identity(name)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 8 << 20)])
    openai_pb2_grpc.add_OpenAIServiceServicer_to_server(stand_ins, server)
    conversation_pb2_grpc.add_ConversationServiceServicer_to_server(stand_ins, server)
    message_pb2_grpc.add_ChatServiceServicer_to_server(stand_ins, server)
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(stand_ins, server)
    if name == "egress":
        engine_pb2_grpc.add_EngineServiceServicer_to_server(stand_ins, server)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    credentials = grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.certificate.read_bytes())], files.ca.read_bytes(), require_client_auth=True
    )
    server.add_secure_port(f"{LOOPBACK}:{port}", credentials)
    server.start()
    return server


@pytest.fixture
def edge(home: Home, authority: DevelopmentAuthority) -> Iterator[Edge]:
    """A serving edge."""
    ports = choose_ports(["edge", "chat", "tenant", "egress"], home.run / "ports.json", lambda name: False)
    config = home.config / "envoy.json"
    config.write_text(json.dumps(static_edge(ports["edge"], ports, authority.identity("edge"), admin_socket("edge"))))
    stand_ins, healths = StandIns(), health.HealthServicer()  # type: ignore[abstract]
    healths.set(MODEL_HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    chat = serve(stand_ins, healths, ports["chat"], authority, "chat")
    tenant = serve(stand_ins, healths, ports["tenant"], authority, "tenant")
    egress = serve(stand_ins, healths, ports["egress"], authority, "egress")
    argv = [envoy_binary(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    log = home.log / "edge.log"
    envoy = RunningProcess.start(argv, {}, home.run, log)
    admin = EnvoyAdmin(home.run / admin_socket("edge"))
    try:
        await_answer(envoy, EnvoyProbe(admin), log)
        yield Edge(ports["edge"], stand_ins, healths, admin, envoy, tenant, log)
    finally:
        for held in (stand_ins.go_on,):
            if not held.done():
                held.set_result(None)
        envoy.send(signal.SIGKILL)
        envoy.ended(GENEROUS_S)
        chat.stop(None)
        tenant.stop(None)
        egress.stop(None)


def await_answer(process: RunningProcess, probe: EnvoyProbe, log: Path) -> None:
    """Returns once the probe is answered READY."""
    for _ in range(600):
        if probe.ask() is Answer.READY:
            return
        assert not process.ended(0.1), log.read_text()
    pytest.fail(log.read_text())


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
