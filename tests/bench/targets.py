"""The ways to a site's model that are compared: by the model service alone, and through the edge."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import grpc
import openai
from openai.types.chat import ChatCompletionMessageParam

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import engine_pb2, engine_pb2_grpc, model_pb2, model_pb2_grpc
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from tests.bench.identities import Identities, tls_of
from tests.bench.load import Arrival, Ask
from tests.e2e.conftest import Site

ROLES = {"system": model_pb2.ROLE_SYSTEM, "user": model_pb2.ROLE_USER, "assistant": model_pb2.ROLE_ASSISTANT}
GENERATE = "/redoma.model.v1.ModelService/Generate"
_TOKEN = Arrival(1)


def sampling(ask: Ask) -> sampling_pb2.SamplingOptions:
    """Says to generate exactly as many tokens as asked for."""
    return sampling_pb2.SamplingOptions(max_output_tokens=ask.tokens, ignore_eos=True, temperature=ask.temperature)


@dataclass(frozen=True, slots=True)
class Access:
    """A running site and what is needed to call it.

    Attributes:
        keys: An API key of each tenant.
        operators: EngineService, by the edge.
    """

    site: Site
    keys: Mapping[str, str]
    operators: "engine_pb2_grpc.EngineServiceAsyncStub"


class _OfSite:
    """What the targets of a site share."""

    def __init__(self, access: Access) -> None:
        self._address = access.site.edge.removeprefix("http://")
        self._keys = access.keys
        self._operators = access.operators
        self._admin = (("authorization", f"Bearer {access.site.admin_key}"),)

    async def prepare(self, asks: Sequence[Ask]) -> None:
        """Has nothing to prepare."""

    async def purge(self, tenant: str) -> None:
        """Drops what the model keeps of a tenant."""
        await self._operators.PurgeTenant(engine_pb2.PurgeTenantRequest(tenant=tenant), metadata=self._admin)

    def _bearer(self, tenant: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._keys[tenant]}"),)


class ModelService(_OfSite):
    """The model service over mutual TLS, as chat calls it: alone, or with what is on the way of its channel."""

    def __init__(self, access: Access, channel: grpc.aio.Channel, name: str = "model service") -> None:
        super().__init__(access)
        self.name = name
        self._stub = model_pb2_grpc.ModelServiceStub(channel)
        self._identities = Identities(DevelopmentAuthority(access.site.home / "pki"))

    def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Calls Generate."""
        request = model_pb2.GenerateRequest(
            messages=[model_pb2.Message(role=ROLES[role], content=content) for role, content in ask.turns],
            sampling=sampling(ask),
        )
        return _arrivals(self._stub.Generate(request, metadata=self._identities.metadata(ask.tenant, GENERATE)))


class EdgeConversation(_OfSite):
    """Messages into conversations that are kept, through Envoy and chat, by gRPC."""

    name = "edge, gRPC conversation"

    def __init__(self, access: Access, channel: grpc.aio.Channel) -> None:
        super().__init__(access)
        self._conversations = conversation_pb2_grpc.ConversationServiceStub(channel)
        self._chat = message_pb2_grpc.ChatServiceStub(channel)
        self._made: dict[Ask, str] = {}

    async def prepare(self, asks: Sequence[Ask]) -> None:
        """Makes a conversation for each ask."""
        for ask in asks:
            conversation = conversation_pb2.Conversation(system_prompt=ask.turns[0][1])
            request = conversation_pb2.CreateConversationRequest(parent="tenants/-", conversation=conversation)
            made = await self._conversations.CreateConversation(request, metadata=self._bearer(ask.tenant))
            self._made[ask] = made.conversation.name

    def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Sends the last turn into the conversation prepared."""
        request = message_pb2.SendMessageRequest(
            conversation=self._made.pop(ask), content=ask.turns[-1][1], sampling=sampling(ask)
        )
        return _arrivals(self._chat.SendMessage(request, metadata=self._bearer(ask.tenant)))


class EdgeSse(_OfSite):
    """Chat completions through Envoy and chat, read as bare lines: a client that costs next to nothing."""

    name = "edge, bare SSE"

    async def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Posts to /v1/chat/completions."""
        host, port = self._address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(completion_request(host, self._keys[ask.tenant], ask))
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"{self.name} answered {status.decode().strip()}: {(await reader.read()).decode()}")
            deltas = 0
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                if b'"usage":{' in line:
                    # Chunks may hold several tokens, or half a character; the usage at the end is the truth.
                    yield Arrival(int(json.loads(line[6:])["usage"]["completion_tokens"]) - deltas, is_delta=False)
                elif b'"content":"' in line and b'"role"' not in line:
                    deltas += 1
                    yield Arrival(1, _text(line)) if ask.keeps_text else _TOKEN
        finally:
            writer.close()


class EdgeOpenAi(_OfSite):
    """The same by OpenAI's own client."""

    name = "edge, OpenAI client"

    def __init__(self, access: Access, client: openai.AsyncOpenAI) -> None:
        super().__init__(access)
        self._clients = {tenant: client.with_options(api_key=key) for tenant, key in access.keys.items()}

    async def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Posts to /v1/chat/completions."""
        messages = [{"role": role, "content": content} for role, content in ask.turns]
        stream = await self._clients[ask.tenant].chat.completions.create(
            model="",
            messages=cast(list[ChatCompletionMessageParam], messages),
            max_tokens=ask.tokens,
            temperature=ask.temperature,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        deltas = 0
        async with stream:
            async for chunk in stream:
                if chunk.usage is not None:
                    yield Arrival(chunk.usage.completion_tokens - deltas, is_delta=False)
                elif chunk.choices and (text := chunk.choices[0].delta.content):
                    deltas += 1
                    yield Arrival(1, text)


@dataclass(frozen=True, slots=True)
class SiteTargets:
    """All ways to a site's model."""

    model: ModelService
    sse: EdgeSse
    conversation: EdgeConversation
    openai: EdgeOpenAi


async def site_targets(site: Site, keys: Mapping[str, str], stack: AsyncExitStack) -> SiteTargets:
    """Opens the ways to a site's model, with a key of each tenant."""
    edge = await stack.enter_async_context(grpc.aio.insecure_channel(site.edge.removeprefix("http://")))
    tls = tls_of(DevelopmentAuthority(site.home / "pki"), "chat")
    target = f"unix:{site.home / 'private' / 'run' / 'model.sock'}"
    direct = open_channel(UpstreamSettings(target=target, server_name="model.private.redoma"), tls, 8 << 20)
    await stack.enter_async_context(direct)
    client = openai.AsyncOpenAI(base_url=f"{site.edge}/v1", api_key="none", max_retries=0, timeout=600)
    await stack.enter_async_context(client)
    access = Access(site, keys, engine_pb2_grpc.EngineServiceStub(edge))
    return SiteTargets(
        ModelService(access, direct), EdgeSse(access), EdgeConversation(access, edge), EdgeOpenAi(access, client)
    )


async def engine_service(site: Site, stack: AsyncExitStack) -> "engine_pb2_grpc.EngineServiceAsyncStub":
    """Gives EngineService of a site, by its edge."""
    edge = await stack.enter_async_context(grpc.aio.insecure_channel(site.edge.removeprefix("http://")))
    stub: engine_pb2_grpc.EngineServiceAsyncStub = engine_pb2_grpc.EngineServiceStub(edge)
    return stub


async def _arrivals(call: "grpc.aio.UnaryStreamCall[Any, Any]") -> AsyncGenerator[Arrival, None]:
    """Reads the deltas of a stream of the model service or of chat."""
    seen = 0
    try:
        async for response in call:
            if response.HasField("delta"):
                count = response.delta.usage.output_tokens
                yield Arrival(count - seen, response.delta.text)
                seen = count
    finally:
        call.cancel()


def completion_request(host: str, key: str, ask: Ask) -> bytes:
    """Gives a whole HTTP request for a chat completion, after whose answer the connection is closed."""
    content = completion_body(ask)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def completion_body(ask: Ask) -> bytes:
    """Gives the body of a chat completion."""
    body = {
        "messages": [{"role": role, "content": content} for role, content in ask.turns],
        "max_tokens": ask.tokens,
        "temperature": ask.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    return json.dumps(body).encode()


def _text(line: bytes) -> str:
    return str(json.loads(line[6:])["choices"][0]["delta"]["content"])
