"""The engine's reports as Prometheus metrics. Counts and seconds only, never content, never a tenant."""

import logging

from redoma_kit.telemetry import Telemetry

_log = logging.getLogger(__name__)
_WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_PROGRESS_STEP = 0.25


class EngineMetrics:
    """An EngineObserver that counts."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._running = telemetry.gauge("redoma_model_running_requests", "Requests in the batch.")
        self._waiting = telemetry.gauge("redoma_model_waiting_requests", "Requests waiting for a place in the batch.")
        self._cells = telemetry.gauge("redoma_model_used_kv_cells", "KV cells that hold a token.")
        self._input = telemetry.counter("redoma_model_input_tokens", "Prompt tokens of admitted requests.")
        self._output = telemetry.counter("redoma_model_output_tokens", "Tokens sampled.")
        self._preempted = telemetry.counter(
            "redoma_model_preemptions", "Requests that gave their KV cells up for a time."
        )
        self._ended = telemetry.counter("redoma_model_ended_requests", "Requests that ended, however they did.")
        self._queue = telemetry.histogram("redoma_model_queue_seconds", "Wait for a place.", (), _WAITS_S)
        self._first = telemetry.histogram(
            "redoma_model_first_token_seconds", "From submission to the first token.", (), _WAITS_S
        )
        self._step = telemetry.histogram("redoma_model_step_seconds", "Duration of a step.", (), _STEPS_S)
        self._next_report = _PROGRESS_STEP

    def loading(self, progress: float) -> None:
        """Logs the progress of loading by quarters."""
        if progress >= self._next_report:
            self._next_report = progress - progress % _PROGRESS_STEP + _PROGRESS_STEP
            _log.info("Loading the model: %d %%.", progress * 100)

    def admitted(self, input_tokens: int, queue_s: float) -> None:
        """Counts the prompt and its wait."""
        self._input.inc(input_tokens)
        self._queue.observe(queue_s)

    def first_token(self, since_submit_s: float) -> None:
        """Observes the time to the first token."""
        self._first.observe(since_submit_s)

    def step(self, duration_s: float, prompt_tokens: int, output_tokens: int) -> None:
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

    def occupied(self, running: int, waiting: int, used_cells: int) -> None:
        """Sets the gauges."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cells.set(used_cells)
