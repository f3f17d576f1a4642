"""Prometheus metrics and OpenTelemetry traces of one service. Both exporters are off unless settings turn them on."""

import threading
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from redoma_kit.settings import MetricsSettings, TracingSettings

# How long a stopping service waits for its last spans to reach the collector.
FLUSH_S = 2.0


class Telemetry:
    """A registry of metrics and a tracer, both named after the service.

    Metrics are always counted, so that a test or a debugger can read them; `start` serves them if settings say where.
    """

    def __init__(self, service: str, metrics: MetricsSettings, tracing: TracingSettings) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.traces = bool(tracing.otlp_endpoint)
        self._metrics = metrics
        self._provider: TracerProvider | None = None
        self.tracer: trace.Tracer = trace.NoOpTracer()
        self._stop_metrics: Sequence[object] = ()
        if self.traces:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            self._provider = TracerProvider(
                resource=Resource.create({"service.name": f"redoma-{service}"}), shutdown_on_exit=False
            )
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=tracing.otlp_endpoint)))
            self.tracer = self._provider.get_tracer("redoma")

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """Makes a counter."""
        return Counter(name, meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """Makes a gauge."""
        return Gauge(name, meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        """Makes a histogram with upper bounds `buckets`."""
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

    def propagation_headers(self) -> dict[str, str]:
        """Gives the headers that make another service's span a child of the current one; empty when tracing is off."""
        headers: dict[str, str] = {}
        if self.traces:
            inject(headers)
        return headers

    def start(self) -> None:
        """Serves /metrics if settings say where.

        Raises:
            OSError: The address can't be bound.
        """
        if self._metrics.listen:
            host, _, port = self._metrics.listen.rpartition(":")
            self._stop_metrics = start_http_server(int(port), host, registry=self.registry)

    def stop(self) -> None:
        """Stops serving and sends what is left of the traces, within FLUSH_S seconds."""
        if self._stop_metrics:
            self._stop_metrics[0].shutdown()  # type: ignore[attr-defined]
            self._stop_metrics = ()
        if self._provider is not None:
            # A collector that is away must not keep the process: the exporter would try again for half a minute.
            flushing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
            flushing.start()
            flushing.join(FLUSH_S)
            self._provider = None
