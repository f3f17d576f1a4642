"""What reaches a collector of traces, and what a collector that is away does to a service that stops."""

import asyncio
import queue
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from redoma_kit.channel import open_channel
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import MetricsSettings, ServiceSettings, TracingSettings, UpstreamSettings
from redoma_kit.telemetry import FLUSH_S, Telemetry
from tests.conftest import TestPki

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    kept = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


async def test_spans_continue_the_callers_trace_and_probes_have_none(
    pki: TestPki, collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings(otlp_endpoint=endpoint))
    settings = ServiceSettings(listen="127.0.0.1:0", tls=pki.tls("public", "chat"), jwks_file=pki.jwks_file)
    verifier = IdentityVerifier(pki.jwks_file, "test")
    server = GrpcServer(settings, {}, {}, verifier, telemetry, structlog.get_logger("redoma.test"))
    await server.start()
    upstream = UpstreamSettings(target=f"127.0.0.1:{server.port}", server_name="chat.public.redoma")
    async with open_channel(upstream, pki.tls("public", "edge"), 1 << 20) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError):
            listing = stub.List(health_pb2.HealthListRequest(), metadata=(("traceparent", CALLER),), timeout=20)
            await listing
    await asyncio.to_thread(telemetry.stop)
    await server.stop(0)
    span = kept.spans.get(timeout=20)
    assert kept.spans.empty()
    assert span.name == "grpc.health.v1.Health/List"
    assert span.trace_id.hex() == CALLER.split("-")[1]
    assert span.parent_span_id.hex() == CALLER.split("-")[2]
    assert {attribute.key for attribute in span.attributes} == {
        "rpc.system",
        "rpc.service",
        "rpc.method",
        "rpc.grpc.status_code",
        "redoma.request_id",
    }


def test_collector_that_is_away_does_not_keep_a_service_from_stopping() -> None:
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings(otlp_endpoint="http://127.0.0.1:1"))
    with telemetry.tracer.start_as_current_span("last"):
        pass
    began = time.monotonic()
    telemetry.stop()
    assert time.monotonic() - began < FLUSH_S + 5
