"""The engines' reports as Prometheus metrics, by model. Counts and seconds only, never content, never a tenant."""

import logging

from redoma_kit.telemetry import Telemetry
from redoma_model.engine.observer import EngineObserver

_log = logging.getLogger(__name__)
_WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_PROGRESS_STEP = 0.25
_LABELS = ("model",)


class EngineMetrics:
    """The metrics of a process's engines."""

    def __init__(self, telemetry: Telemetry) -> None:
        gauge, counter, histogram = telemetry.gauge, telemetry.counter, telemetry.histogram
        self.running = gauge("redoma_model_running_requests", "Requests in the batch.", _LABELS)
        self.waiting = gauge("redoma_model_waiting_requests", "Requests waiting for a place in the batch.", _LABELS)
        self.cells = gauge("redoma_model_used_kv_cells", "KV cells that hold a token.", _LABELS)
        self.cached_cells = gauge(
            "redoma_model_cached_kv_cells", "Those of them that hold cached prefixes, shared or not.", _LABELS
        )
        self.input = counter("redoma_model_input_tokens", "Prompt tokens of admitted requests.", _LABELS)
        self.cached = counter(
            "redoma_model_cached_input_tokens", "Those of them that were reused from the tenant's requests.", _LABELS
        )
        self.output = counter("redoma_model_output_tokens", "Tokens sampled.", _LABELS)
        self.preempted = counter("redoma_model_preemptions", "Requests that gave their place up for a time.", _LABELS)
        self.ended = counter("redoma_model_ended_requests", "Requests that ended, however they did.", _LABELS)
        self.queue = histogram("redoma_model_queue_seconds", "Wait for a place.", _LABELS, _WAITS_S)
        self.first = histogram(
            "redoma_model_first_token_seconds", "From submission to the first token.", _LABELS, _WAITS_S
        )
        self.step = histogram("redoma_model_step_seconds", "Duration of a step.", _LABELS, _STEPS_S)

    def of(self, model: str) -> EngineObserver:
        """Gives what the engine of a model reports to."""
        return _ModelMetrics(self, model)


class _ModelMetrics:
    """An EngineObserver that counts one model's."""

    def __init__(self, metrics: EngineMetrics, model: str) -> None:
        self._model = model
        self._running = metrics.running.labels(model)
        self._waiting = metrics.waiting.labels(model)
        self._cells = metrics.cells.labels(model)
        self._cached_cells = metrics.cached_cells.labels(model)
        self._input = metrics.input.labels(model)
        self._cached = metrics.cached.labels(model)
        self._output = metrics.output.labels(model)
        self._preempted = metrics.preempted.labels(model)
        self._ended = metrics.ended.labels(model)
        self._queue = metrics.queue.labels(model)
        self._first = metrics.first.labels(model)
        self._step = metrics.step.labels(model)
        self._next_report = _PROGRESS_STEP

    def loading(self, progress: float) -> None:
        """Logs the progress of loading by quarters."""
        if progress >= self._next_report:
            self._next_report = progress - progress % _PROGRESS_STEP + _PROGRESS_STEP
            _log.info("Loading the model %s: %d %%.", self._model, progress * 100)

    def admitted(self, input_tokens: int, cached_tokens: int, queue_s: float) -> None:
        """Counts the prompt and its wait."""
        self._input.inc(input_tokens)
        self._cached.inc(cached_tokens)
        self._queue.observe(queue_s)

    def first_token(self, since_submit_s: float) -> None:
        """Observes the time to the first token."""
        self._first.observe(since_submit_s)

    def step(self, duration_s: float, output_tokens: int) -> None:
        """Observes a step."""
        self._step.observe(duration_s)
        if output_tokens:
            self._output.inc(output_tokens)

    def preempted(self) -> None:
        """Counts it."""
        self._preempted.inc()

    def ended(self, output_tokens: int) -> None:
        """Counts it."""
        self._ended.inc()

    def occupied(self, running: int, waiting: int, used_cells: int, cached_cells: int) -> None:
        """Sets the gauges."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cells.set(used_cells)
        self._cached_cells.set(cached_cells)
