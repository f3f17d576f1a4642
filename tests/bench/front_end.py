"""The front end's ceiling: how much of a fast model's stream gets through each way to it, and what that costs.

A fake engine gives 20,000 tokens a second over 256 streams. Where a process can't keep up, deltas hold more tokens.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import grpc

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2
from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2
from redoma_cli.local.pki import server_name
from redoma_cli.local.private_site import DEFAULT_SITE
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from tests.bench.fast_site import FastSite, fast_site
from tests.bench.findings import Findings, Plan, Table
from tests.bench.identities import Identities, tls_of
from tests.bench.targets import GENERATE
from tests.bench.ways import port_of
from tests.fakes.fast_backend import MARK

SEND_MESSAGE = "/redoma.chat.v1.ChatService/SendMessage"
CREATE_CONVERSATION = "/redoma.chat.v1.ConversationService/CreateConversation"
TENANT = "acme"
PROMPT = "Write a long story about a glass dome."
TOKENS_PER_S, STREAMS, WINDOW_S = 20_000.0, 256, 10.0
# More than a stream can bring while it is measured.
STREAM_TOKENS = 8_000
START_S = 120.0
MARK_BYTES = MARK.encode()
PROCESSES = ("model", "gateway", "egress", "chat", "tenant", "edge", "client")
ABOUT = (
    f"A fake engine that costs next to nothing gives {TOKENS_PER_S:,.0f} tokens a second over {STREAMS} streams, in "
    "the model service's place; what arrives is counted on each way to it. Where a process can't keep up, deltas "
    "hold more tokens each. Processor seconds are those of each process for 1,000 tokens that arrived; client and "
    "services share one machine, so what all of them cost together bounds the rate."
)

# Opens one endless stream; yields what arrives, as it came over the wire.
OpenRaw = Callable[[], AsyncGenerator[bytes, None]]
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One way to the model, measured.

    Attributes:
        way: What it is called.
        tokens_per_s: Tokens that arrived.
        deltas_per_s: Deltas in which they came.
        tokens_per_delta: How many came in one; 1 is one delta for each token.
        cpu_s_per_1000_tokens: Processor time by process, in seconds.
        failed: Streams that ended with an error.
        failures: What the errors say, each once.
    """

    way: str
    tokens_per_s: float
    deltas_per_s: float
    tokens_per_delta: float
    cpu_s_per_1000_tokens: Mapping[str, float]
    failed: int
    failures: tuple[str, ...]


@dataclass(slots=True)
class _Count:
    """What arrived so far, of all streams.

    Attributes:
        to_start: Streams that brought nothing yet and have not failed.
        all_started: Whether there is none of them.
    """

    to_start: int
    tokens: int = 0
    deltas: int = 0
    failures: list[str] = field(default_factory=list)
    all_started: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Notes that a stream brought its first tokens, or none ever."""
        self.to_start -= 1
        if self.to_start == 0:
            self.all_started.set()


async def run(plan: Plan) -> Findings:
    """Measures every way in each round, one after the other."""
    streams, window_s = plan.pick(STREAMS, 16), plan.pick(WINDOW_S, 1.0)
    taken: dict[str, list[Ceiling]] = {}
    for turn in range(plan.rounds):
        plan.tell(f"round {turn + 1} of {plan.rounds}")
        for one in await _measure_ways(streams, window_s):
            taken.setdefault(one.way, []).append(one)
    headings = ("way", "tokens/s", "deltas/s", "tokens a delta", *(f"{name}, s" for name in PROCESSES), "failed")
    table = Table("The front end under a fast model", headings, tuple(_cells(way, seen) for way, seen in taken.items()))
    return Findings(
        "front_end", ABOUT, (table,), (), {way: [asdict(one) for one in seen] for way, seen in taken.items()}
    )


def _cells(way: str, seen: list[Ceiling]) -> tuple[str, ...]:
    costs = (f"{median(one.cpu_s_per_1000_tokens[name] for one in seen):.3f}" for name in PROCESSES)
    return (
        way,
        f"{median(one.tokens_per_s for one in seen):,.0f}",
        f"{median(one.deltas_per_s for one in seen):,.0f}",
        f"{median(one.tokens_per_delta for one in seen):.2f}",
        *costs,
        str(sum(one.failed for one in seen)),
    )


async def _measure_ways(streams: int, window_s: float) -> list[Ceiling]:
    """Measures each way, one after the other, for `window_s` seconds while all its streams run."""
    async with fast_site(streams / TOKENS_PER_S) as site, AsyncExitStack() as stack:
        ways: dict[str, OpenRaw] = {
            "model service": await _model_service(site, stack),
            "chat, gRPC": await _chat(site, stack),
            "edge + chat, gRPC": await _edge_grpc(site, stack),
            "edge + chat, SSE": _edge_sse(site),
        }
        return [await _measure(name, open_raw, site, streams, window_s) for name, open_raw in ways.items()]


async def _measure(name: str, open_raw: OpenRaw, site: FastSite, streams: int, window_s: float) -> Ceiling:
    count = _Count(streams)
    readers = [asyncio.create_task(_read(open_raw, count)) for _ in range(streams)]
    try:
        async with asyncio.timeout(START_S):
            await count.all_started.wait()
        began, cpu, tokens, deltas = time.perf_counter(), site.cpu_s(), count.tokens, count.deltas
        await asyncio.sleep(window_s)
        seconds, cpu_after = time.perf_counter() - began, site.cpu_s()
        tokens, deltas = count.tokens - tokens, count.deltas - deltas
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    failures = tuple(sorted(set(count.failures)))
    used = {process: (cpu_after[process] - cpu[process]) * 1_000 / max(1, tokens) for process in cpu}
    return Ceiling(
        name, tokens / seconds, deltas / seconds, tokens / max(1, deltas), used, len(count.failures), failures
    )


async def _read(open_raw: OpenRaw, count: _Count) -> None:
    has_started = False
    try:
        async with aclosing(open_raw()) as pieces:
            async for piece in pieces:
                tokens = piece.count(MARK_BYTES)
                if tokens and not has_started:
                    has_started = True
                    count.start()
                count.tokens += tokens
                # A piece is a message, or what has come of a body of events.
                count.deltas += max(1, piece.count(b"data: ")) if tokens else 0
    except (grpc.aio.AioRpcError, OSError) as error:
        count.failures.append(f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error))
        if not has_started:
            count.start()


async def _model_service(site: FastSite, stack: AsyncExitStack) -> OpenRaw:
    channel = await stack.enter_async_context(_open(site, "model", "chat"))
    call: Any = channel.unary_stream(GENERATE, request_serializer=model_pb2.GenerateRequest.SerializeToString)
    message = model_pb2.Message(role=model_pb2.ROLE_USER, content=PROMPT)
    request = model_pb2.GenerateRequest(messages=[message], sampling=_sampling())
    identities = Identities(site.authority)
    return lambda: _messages(call(request, metadata=identities.metadata(TENANT, GENERATE)))


async def _chat(site: FastSite, stack: AsyncExitStack) -> OpenRaw:
    channel = await stack.enter_async_context(_open(site, "chat", "edge"))
    identities = Identities(site.authority)
    return await _conversation(channel, lambda method: identities.metadata(TENANT, method))


async def _edge_grpc(site: FastSite, stack: AsyncExitStack) -> OpenRaw:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{site.edge_port}"))
    return await _conversation(channel, lambda _: (("authorization", f"Bearer {site.api_key}"),))


async def _conversation(channel: grpc.aio.Channel, metadata: Callable[[str], Metadata]) -> OpenRaw:
    conversations = conversation_pb2_grpc.ConversationServiceStub(channel)
    creation: Awaitable[conversation_pb2.CreateConversationResponse] = conversations.CreateConversation(
        conversation_pb2.CreateConversationRequest(parent="tenants/-"), metadata=metadata(CREATE_CONVERSATION)
    )
    name = (await creation).conversation.name
    call: Any = channel.unary_stream(SEND_MESSAGE, request_serializer=message_pb2.SendMessageRequest.SerializeToString)
    request = message_pb2.SendMessageRequest(conversation=name, content=PROMPT, sampling=_sampling())
    return lambda: _messages(call(request, metadata=metadata(SEND_MESSAGE)))


async def _messages(call: "grpc.aio.UnaryStreamCall[Any, Any]") -> AsyncGenerator[bytes, None]:
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


def _edge_sse(site: FastSite) -> OpenRaw:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": STREAM_TOKENS, "stream": True}
    content = json.dumps(body | {"ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {site.api_key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"

    async def events() -> AsyncGenerator[bytes, None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.edge_port)
        try:
            writer.write(head.encode() + content)
            # A chunk ends with each event, so none is counted twice or cut within its mark.
            while event := await reader.readuntil(b"\n\n"):
                yield event
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    return events


def _open(site: FastSite, service: str, caller: str) -> grpc.aio.Channel:
    if service == "model":
        upstream = UpstreamSettings(
            target=f"unix:{site.home.private.run / 'model.sock'}", server_name=server_name(service, DEFAULT_SITE)
        )
    else:
        port = port_of(site.home.root, service)
        upstream = UpstreamSettings(target=f"127.0.0.1:{port}", server_name=server_name(service))
    return open_channel(upstream, tls_of(site.authority, caller), 8 << 20)


def _sampling() -> sampling_pb2.SamplingOptions:
    return sampling_pb2.SamplingOptions(max_output_tokens=STREAM_TOKENS, ignore_eos=True)
