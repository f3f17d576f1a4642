"""The ways to one engine that are compared: in this process, by the model service alone, through the whole site."""

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import jwt
import openai
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2, model_pb2_grpc
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.channel import open_channel
from redoma_kit.identity import ALGORITHM, ISSUER, METADATA_KEY
from redoma_kit.settings import MetricsSettings, TlsSettings, TracingSettings, UpstreamSettings, load_settings
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.engine import Engine
from redoma_model.engine.hardware import share_cores
from redoma_model.engine.stream import Delta
from redoma_model.engine.template import Message, Role
from redoma_model.metrics import EngineMetrics
from redoma_model.served import ServedModel
from redoma_model.settings import ModelSettings
from tests.bench.load import OpenStream

PROMPT = "Write a long story about a glass dome, and about everyone who lives around it."


def sampling(tokens: int) -> sampling_pb2.SamplingOptions:
    """Says to generate exactly `tokens` tokens."""
    return sampling_pb2.SamplingOptions(max_output_tokens=tokens, ignore_eos=True, temperature=0.8)


async def engine(home: Path, stack: AsyncExitStack) -> OpenStream:
    """The engine in this process, with the site's own settings."""
    settings = load_settings(ModelSettings, home / "config" / "model.toml")
    telemetry = Telemetry("bench", MetricsSettings(), TracingSettings())
    # As `redoma-model` does it: llama.cpp reads how its threads wait when it is brought in.
    share_cores(os.environ)
    from redoma_model.loading import llama_loader

    running = Engine(llama_loader(settings), settings.limits, EngineMetrics(telemetry))
    running.start()
    stack.push_async_callback(running.stop)
    workers = stack.enter_context(ThreadPoolExecutor(1))
    model = ServedModel("bench", running, settings.sampling, workers)
    await model.load()

    async def open_stream(tokens: int) -> AsyncIterator[int]:
        options = {"max_output_tokens": tokens, "ignore_eos": True, "temperature": 0.8}
        generation = await model.generate([Message(Role.USER, PROMPT)], options, False, False)
        async for event in generation.stream:
            if isinstance(event, Delta):
                yield event.tokens

    return open_stream


def mint(authority: DevelopmentAuthority) -> str:
    """Signs an identity as the tenant service would."""
    key = load_pem_private_key(authority.signing_key.read_bytes(), password=None)
    key_id = json.loads(authority.jwks.read_text())["keys"][0]["kid"]
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": ["model"], "sub": "tenants/acme/apiKeys/bench", "tenant": "acme"}
    claims |= {"scopes": ["generate"], "method": "", "isolation": "SHARED", "weight": 100, "models": [], "adapter": ""}
    claims |= {"jti": uuid.uuid4().hex, "iat": now, "exp": now + 60}
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id})  # type: ignore[arg-type]


async def model_service(home: Path, stack: AsyncExitStack) -> OpenStream:
    """The model service over mutual TLS, as chat calls it."""
    authority = DevelopmentAuthority(home / "pki")
    files = authority.identity("chat")
    tls = TlsSettings(ca_file=files.ca, cert_file=files.certificate, key_file=files.key)
    target = load_settings(ModelSettings, home / "config" / "model.toml").listen
    channel = open_channel(UpstreamSettings(target=target, server_name="model.private.redoma"), tls, 8 << 20)
    await stack.enter_async_context(channel)
    stub = model_pb2_grpc.ModelServiceStub(channel)

    async def open_stream(tokens: int) -> AsyncIterator[int]:
        request = model_pb2.GenerateRequest(
            messages=[model_pb2.Message(role=model_pb2.ROLE_USER, content=PROMPT)], sampling=sampling(tokens)
        )
        seen = 0
        async for response in stub.Generate(request, metadata=((METADATA_KEY, mint(authority)),)):
            if response.HasField("delta"):
                count = response.delta.usage.output_tokens
                yield count - seen
                seen = count

    return open_stream


async def edge_grpc(edge: str, api_key: str, stack: AsyncExitStack) -> OpenStream:
    """Messages into conversations that are kept, through Envoy and chat, by gRPC."""
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(edge.removeprefix("http://")))
    conversations = conversation_pb2_grpc.ConversationServiceStub(channel)
    chat = message_pb2_grpc.ChatServiceStub(channel)
    metadata = (("authorization", f"Bearer {api_key}"),)
    creation = conversation_pb2.CreateConversationRequest(parent="tenants/-")
    # Each message begins a branch of its own, so that one conversation serves all streams.
    name = (await conversations.CreateConversation(creation, metadata=metadata)).conversation.name

    async def open_stream(tokens: int) -> AsyncIterator[int]:
        request = message_pb2.SendMessageRequest(conversation=name, content=PROMPT, sampling=sampling(tokens))
        seen = 0
        async for response in chat.SendMessage(request, metadata=metadata):
            if response.HasField("delta"):
                count = response.delta.usage.output_tokens
                yield count - seen
                seen = count

    return open_stream


async def edge_sse(edge: str, api_key: str, _stack: AsyncExitStack) -> OpenStream:
    """Chat completions through Envoy and chat, read as bare lines: a client that costs next to nothing."""
    host, port = edge.removeprefix("http://").split(":")

    async def open_stream(tokens: int) -> AsyncIterator[int]:
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "temperature": 0.8}
        body |= {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api_key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(head.encode() + content)
            pieces = 0
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                if b'"usage":{' in line:
                    # Chunks may hold several tokens, or half a character; the usage at the end is the truth.
                    yield int(json.loads(line[6:])["usage"]["completion_tokens"]) - pieces
                elif b'"content":"' in line and b'"role"' not in line:
                    pieces += 1
                    yield 1
        finally:
            writer.close()

    return open_stream


async def edge_openai(edge: str, api_key: str, stack: AsyncExitStack) -> OpenStream:
    """The same by OpenAI's own client."""
    client = await stack.enter_async_context(
        openai.AsyncOpenAI(base_url=f"{edge}/v1", api_key=api_key, max_retries=0, timeout=600)
    )

    async def open_stream(tokens: int) -> AsyncIterator[int]:
        stream = await client.chat.completions.create(
            model="",
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=tokens,
            temperature=0.8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        pieces = 0
        async for chunk in stream:
            if chunk.usage is not None:
                yield chunk.usage.completion_tokens - pieces
            elif chunk.choices and chunk.choices[0].delta.content:
                pieces += 1
                yield 1

    return open_stream
