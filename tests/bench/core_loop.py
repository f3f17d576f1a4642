"""The engine's core alone: all that a step does, with nobody in the process who reads what it gives."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from redoma_model.engine.backend import Backend
from redoma_model.engine.core import EngineCore
from redoma_model.engine.observer import EngineObserver
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Delta, Stream
from redoma_model.engine.usage import UsageSink
from redoma_model.settings import ModelSettings
from tests.bench.bare_loop import Tokens
from tests.bench.load import Sample, full_batch_rate

TENANT = "core"
WEIGHT = 100


class CoreLoop:
    """A core over a loaded model, on a thread of its own."""

    def __init__(self, backend: Backend, settings: ModelSettings, observer: EngineObserver, usage: UsageSink) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="core-loop")
        self._backend = backend
        self._core = EngineCore(backend, settings.limits.core, observer, usage, nullcontext(), time.monotonic)

    def close(self) -> None:
        """Frees the model."""
        self._worker.submit(self._backend.close).result()
        self._worker.shutdown()

    def measure(self, prompts: Sequence[Tokens], tokens: int) -> Sample:
        """Generates `tokens` tokens after each prompt, on the core's own thread, and waits for it."""
        return self._worker.submit(self._run, prompts, tokens).result()

    def _run(self, prompts: Sequence[Tokens], tokens: int) -> Sample:
        core = self._core
        times: dict[Stream, list[float]] = {}
        sampling = Sampling(max_output_tokens=tokens, ignore_eos=True)
        began = time.perf_counter()
        for prompt in prompts:
            request = Request(prompt, sampling, tenant=TENANT, weight=WEIGHT, token_id=uuid.uuid4().hex)
            core.add(request, Stream(tokens), time.monotonic(), None)
        while not core.idle:
            core.step()
            now = time.perf_counter() - began
            for stream, event in core.outbox:
                if isinstance(event, Delta):
                    times.setdefault(stream, []).append(now)
            core.outbox.clear()
        rate = len(prompts) * tokens / (time.perf_counter() - began)
        core.ended.clear()
        core.purge(TENANT)
        arrivals = list(times.values())
        part = sum(map(len, arrivals)) / (len(prompts) * tokens)
        return Sample(rate, full_batch_rate(arrivals) / part, tuple(taken[0] for taken in arrivals), part)
