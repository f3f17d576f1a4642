"""The kit's server around a servicer of all four call kinds, and callers of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from redoma_kit.channel import open_channel
from redoma_kit.identity import IdentityVerifier
from redoma_kit.policy import EDGE, Rule
from redoma_kit.server import GrpcServer
from redoma_kit.settings import MetricsSettings, ServiceSettings, TracingSettings, UpstreamSettings
from redoma_kit.telemetry import Telemetry
from tests.conftest import TestPki

SERVICE = "redoma.test.v1.EchoService"
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
GENERATE = frozenset({"generate"})


@dataclass(slots=True)
class Echo:
    """A servicer whose behaviour a test sets: `act` runs inside the handler and may raise, wait or return text."""

    act: Callable[[str], Any] = lambda text: text
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def _run(self, text: str) -> StringValue:
        self.entered.set()
        try:
            result = self.act(text)
            return StringValue(value=await result if asyncio.iscoroutine(result) else result)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def unary_unary(self, request: StringValue, _context: object) -> StringValue:
        return await self._run(request.value)

    async def unary_stream(self, request: StringValue, _context: object) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        yield await self._run(request.value)

    async def stream_unary(self, requests: AsyncIterator[StringValue], _context: object) -> StringValue:
        return await self._run("".join([request.value async for request in requests]))

    async def stream_stream(self, requests: AsyncIterator[StringValue], _context: object) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield await self._run(request.value)

    def register(self, server: grpc.aio.Server) -> None:
        codec: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        handlers = {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.unary_unary, **codec),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(self.unary_stream, **codec),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(self.stream_unary, **codec),
            "StreamStream": grpc.stream_stream_rpc_method_handler(self.stream_stream, **codec),
            "Unlisted": grpc.unary_unary_rpc_method_handler(self.unary_unary, **codec),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@dataclass(slots=True)
class Running:
    """The server under test and a way to call it."""

    echo: Echo
    server: GrpcServer
    telemetry: Telemetry
    settings: ServiceSettings
    channel: grpc.aio.Channel
    pki: TestPki

    async def call(
        self,
        kind: str,
        text: str = "hello",
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
        timeout_s: float | None = 20,
        channel: grpc.aio.Channel | None = None,
    ) -> list[str]:
        """Calls `kind` and gives all response texts."""
        path = f"/{SERVICE}/{kind}"
        if metadata is None:
            metadata = self.pki.metadata(["test"], method=path)
        codec = (StringValue.SerializeToString, StringValue.FromString)
        request = StringValue(value=text)
        use = channel or self.channel

        async def requests() -> AsyncIterator[StringValue]:
            yield request

        if kind == "UnaryStream":
            return await self._all(use.unary_stream(path, *codec)(request, metadata=metadata, timeout=timeout_s))
        if kind == "StreamUnary":
            return [(await use.stream_unary(path, *codec)(requests(), metadata=metadata, timeout=timeout_s)).value]
        if kind == "StreamStream":
            return await self._all(use.stream_stream(path, *codec)(requests(), metadata=metadata, timeout=timeout_s))
        return [(await use.unary_unary(path, *codec)(request, metadata=metadata, timeout=timeout_s)).value]

    @staticmethod
    async def _all(responses: Any) -> list[str]:
        try:
            return [response.value async for response in responses]
        finally:
            # A task that is cancelled between two messages leaves its call as it is.
            responses.cancel()

    def open(self, site: str, service: str) -> grpc.aio.Channel:
        """Opens a channel as another service."""
        upstream = UpstreamSettings(target=f"127.0.0.1:{self.server.port}", server_name="chat.public.redoma")
        return open_channel(upstream, self.pki.tls(site, service), 1 << 20)


def echo_server(pki: TestPki, echo: Echo, log: structlog.stdlib.BoundLogger | None = None, **fields: Any) -> GrpcServer:
    """Gives a server of `echo`, which the edge may call; `fields` are settings."""
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "tls": pki.tls("public", "chat"),
        "jwks_file": pki.jwks_file,
    } | fields
    policy = {f"/{SERVICE}/{kind}": Rule(peers=EDGE, any_scope=GENERATE) for kind in KINDS}
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
    verifier = IdentityVerifier(pki.jwks_file, "test")
    server = GrpcServer(
        ServiceSettings(**values), policy, {}, verifier, telemetry, log or structlog.get_logger("redoma.test")
    )
    server.add(echo.register, SERVICE)
    return server


def details_of(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, list[float]]:
    """Gives the only ErrorInfo of a status, and the retry delays in seconds."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    infos, delays = [], []
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            infos.append(error_details_pb2.ErrorInfo.FromString(detail.value))
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delays.append(error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9)
    (info,) = infos
    return info, delays


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """Awaits a call that must fail, and gives its code and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, _ = details_of(caught.value)
    assert info.domain == "redoma"
    return caught.value.code(), info.reason
