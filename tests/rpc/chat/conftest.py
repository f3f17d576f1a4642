"""The chat service in this process, over mutual TLS, between a caller with the edge's certificate and its doubles."""

import asyncio
import base64
import io
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.api.httpbody_pb2 import HttpBody

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.chat.v1.conversation_pb2_grpc import ConversationServiceStub
from redoma.chat.v1.message_pb2_grpc import ChatServiceStub
from redoma.chat.v1.openai_pb2_grpc import OpenAIServiceStub
from redoma_chat.server import MIGRATIONS, SCHEMA, ChatServer
from redoma_chat.settings import ChatSettings, KeyProviderSettings
from redoma_kit.channel import open_channel
from redoma_kit.errors import Failure, failure_from_status
from redoma_kit.settings import UpstreamSettings
from tests.fakes.meter_service import FakeMeter
from tests.fakes.model_service import FakeModel, FakeModelServer, FakeTenant, FakeTenantServer
from tests.fakes.postgres import PostgresServer

CALL_TIMEOUT_S = 30.0
AUDIENCE = ("chat", "model", "tenant")


class Signed:
    """A stub whose every call carries an identity minted for its method."""

    def __init__(self, stub: Any, service: str, mint: Callable[[str], str]) -> None:
        self._stub = stub
        self._service = service
        self._mint = mint

    def __getattr__(self, name: str) -> Any:
        def call(request: Any, timeout: float = CALL_TIMEOUT_S) -> Any:
            identity = self._mint(f"/redoma.chat.v1.{self._service}/{name}")
            return getattr(self._stub, name)(request, metadata=(("redoma-identity", identity),), timeout=timeout)

        return call


@dataclass
class Answer:
    """What a stream of an answer brought."""

    started: Any = None
    deltas: list[Any] = field(default_factory=list)
    done: Any = None
    error: grpc.aio.AioRpcError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    @property
    def failure(self) -> Failure:
        assert self.error is not None, "the stream did not fail"
        return failure_of(self.error)


def failure_of(error: grpc.RpcError) -> Failure:
    found = failure_from_status(error)
    assert found is not None, f"no ErrorInfo in {error!r}"
    return found


async def refused(call: Awaitable[Any]) -> Failure:
    """Awaits a call that must fail and gives its failure."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


class Caller:
    """A principal of a tenant, as the edge lets it in."""

    def __init__(self, channel: grpc.aio.Channel, pki: Any, tenant: str, principal: str, **claims: Any) -> None:
        def mint(method: str) -> str:
            return str(pki.mint(AUDIENCE, tenant=tenant, sub=principal, method=method, **claims))

        self.tenant = tenant
        self.conversations = Signed(ConversationServiceStub(channel), "ConversationService", mint)
        self.chat = Signed(ChatServiceStub(channel), "ChatService", mint)
        self.openai = Signed(OpenAIServiceStub(channel), "OpenAIService", mint)

    async def create(self, **settings: Any) -> str:
        """Creates a conversation and gives its name."""
        request = conversation_pb2.CreateConversationRequest(
            parent=f"tenants/{self.tenant}", conversation=conversation_pb2.Conversation(**settings)
        )
        return str((await self.conversations.CreateConversation(request)).conversation.name)

    async def collect(self, call: Any) -> Answer:
        answer = Answer()
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                match response.WhichOneof("event"):
                    case "started":
                        answer.started = response.started
                    case "delta":
                        answer.deltas.append(response.delta)
                    case "done":
                        answer.done = response.done
        except grpc.aio.AioRpcError as error:
            answer.error = error
        return answer

    async def send(self, conversation: str, content: str = "", parent: str = "", **settings: Any) -> Answer:
        """Sends a message and reads the answer to its end."""
        request = message_pb2.SendMessageRequest(
            conversation=conversation, parent_message=parent, content=content, **settings
        )
        return await self.collect(self.chat.SendMessage(request))

    async def extend(self, message: str) -> Answer:
        """Continues an answer and reads what is new to its end."""
        return await self.collect(self.chat.ContinueMessage(message_pb2.ContinueMessageRequest(message=message)))

    async def message(self, name: str) -> message_pb2.Message:
        response = await self.conversations.GetMessage(conversation_pb2.GetMessageRequest(name=name))
        message: message_pb2.Message = response.message
        return message

    async def conversation(self, name: str) -> conversation_pb2.Conversation:
        response = await self.conversations.GetConversation(conversation_pb2.GetConversationRequest(name=name))
        conversation: conversation_pb2.Conversation = response.conversation
        return conversation

    async def messages(self, conversation: str) -> list[message_pb2.Message]:
        request = conversation_pb2.ListMessagesRequest(parent=conversation)
        return list((await self.conversations.ListMessages(request)).messages)

    async def complete(self, body: Any) -> tuple[str, list[bytes]]:
        """Calls the façade; gives the content type and the bodies."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        content_type, chunks = "", []
        async for chunk in self.openai.CreateChatCompletion(HttpBody(content_type="application/json", data=data)):
            content_type = content_type or chunk.content_type
            chunks.append(chunk.data)
        return content_type, chunks

    async def embed(self, body: Any) -> bytes:
        """Calls the façade for embeddings; gives the whole body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        pieces = []
        async for piece in self.openai.CreateEmbedding(HttpBody(content_type="application/json", data=data)):
            assert piece.content_type == "application/json"
            pieces.append(piece.data)
        return b"".join(pieces)


@dataclass
class World:
    """The service, its doubles, and the log it wrote."""

    pki: Any
    settings: ChatSettings
    model: FakeModelServer
    tenant: FakeTenantServer
    log_text: io.StringIO
    chat: ChatServer
    channel: grpc.aio.Channel
    expects_defect: bool = False

    @property
    def meter(self) -> FakeMeter:
        assert isinstance(self.tenant.meter, FakeMeter)
        return self.tenant.meter

    def caller(self, tenant: str = "acme", principal: str = "", **claims: Any) -> Caller:
        return Caller(self.channel, self.pki, tenant, principal or f"tenants/{tenant}/apiKeys/one", **claims)

    async def restart_chat(self) -> None:
        """Ends the service and starts another on the same database, as a supervisor does."""
        await self.channel.close()
        await self.chat.stop(0)
        await self.start_chat()

    async def start_chat(self) -> None:
        self.chat = ChatServer(self.settings, logger(self.log_text))
        await self.chat.start()
        upstream = UpstreamSettings(target=f"127.0.0.1:{self.chat.grpc.port}", server_name="chat.public.redoma")
        self.channel = open_channel(upstream, self.pki.tls("public", "edge"), 8 << 20)


def logger(into: io.StringIO) -> structlog.stdlib.BoundLogger:
    """Gives a logger that writes JSON lines into a buffer."""
    processors: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(into), processors=[structlog.stdlib.add_log_level, *processors]
    )
    return log


def key_provider(folder: Path) -> KeyProviderSettings:
    """Gives a key provider with a key of its own in `folder`."""
    file = folder / "content.key"
    file.write_bytes(base64.b64encode(os.urandom(32)))
    return KeyProviderSettings(kind="file", file=file)


@pytest.fixture
async def model(pki: Any) -> AsyncIterator[FakeModelServer]:
    server = FakeModelServer(pki.tls("private", "model"), FakeModel())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def tenant(pki: Any) -> AsyncIterator[FakeTenantServer]:
    server = FakeTenantServer(pki.tls("public", "tenant"), FakeTenant(), FakeMeter())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def chat_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without rows: SQLite, or what `@pytest.mark.parametrize("chat_database_url", BACKENDS,
    indirect=True)` of a test or module says.
    """
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/chat.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def world(
    pki: Any, model: FakeModelServer, tenant: FakeTenantServer, chat_database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    settings = ChatSettings(
        listen="127.0.0.1:0",
        tls=pki.tls("public", "chat"),
        jwks_file=pki.jwks_file,
        database_url=chat_database_url,
        key_provider=key_provider(tmp_path),
        egress=UpstreamSettings(target=f"127.0.0.1:{model.port}", server_name="model.private.redoma"),
        tenant=UpstreamSettings(target=f"127.0.0.1:{tenant.port}", server_name="tenant.public.redoma"),
    )
    log_text = io.StringIO()
    made = World(pki, settings, model, tenant, log_text, chat=None, channel=None)  # type: ignore[arg-type]
    await made.start_chat()
    yield made
    await made.channel.close()
    await made.chat.stop(0)
    assert made.expects_defect or "unexpected error" not in log_text.getvalue(), log_text.getvalue()


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 (the condition is a call of the service)
            await asyncio.sleep(0.02)
