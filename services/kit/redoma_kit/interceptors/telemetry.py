"""Measures every call, and traces it when a collector is configured. Labels and attributes hold no content."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract

from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import PROBES
from redoma_kit.telemetry import Telemetry

CALL_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Measurements:
    """Counts calls by method and code, and times them to their end and to their first message."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._calls = telemetry.counter("redoma_calls", "Calls that ended.", ("method", "code"))
        self._running = telemetry.gauge("redoma_calls_running", "Calls being handled.", ("method",))
        self._duration = telemetry.histogram(
            "redoma_call_duration_seconds", "From arrival to the end.", ("method",), CALL_BUCKETS_S
        )
        self._first = telemetry.histogram(
            "redoma_call_first_message_seconds",
            "From arrival to the first response message.",
            ("method",),
            CALL_BUCKETS_S,
        )

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        code = "OK"
        running = self._running.labels(call.method)
        running.inc()
        try:
            yield
        except BaseException:
            code = call.failure.code.name if call.failure else "CANCELLED"
            raise
        finally:
            running.dec()
            self._calls.labels(call.method, code).inc()
            self._duration.labels(call.method).observe(time.monotonic() - call.started_at)
            if call.messages_sent:
                self._first.labels(call.method).observe(call.first_message_at - call.started_at)


class Tracing:
    """Opens a span a call, as a child of the caller's; none for health probes."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        if call.method in PROBES:
            yield
            return
        carrier = {key: value for key, value in call.context.invocation_metadata() or () if isinstance(value, str)}
        service, _, method = call.method.removeprefix("/").partition("/")
        with self._tracer.start_as_current_span(
            call.method.removeprefix("/"),
            context=extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                code = call.failure.code.value[0] if call.failure else 0
                span.set_attribute("rpc.grpc.status_code", code)
                span.set_attribute("redoma.request_id", call.request_id)
