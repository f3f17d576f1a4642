"""The engine's core on a virtual clock: steps take what a machine's cost model says, so that times can be asserted."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from redoma_kit.errors import DomainError
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.batch import Chunk
from redoma_model.engine.core import CoreLimits, EngineCore
from redoma_model.engine.lane import Lane
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.state import Purged
from redoma_model.engine.stream import Delta, Done, Event, Started, Stream
from redoma_model.engine.usage import Ending, OpenedRequest, TokenCounts
from tests.fakes.model_backend import FakeBackend
from tests.fakes.silent_observer import SilentObserver

# A prompt longer than a few blocks of the prefix cache.
HISTORY = "".join(f"line {number} of a history. " for number in range(8))


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes, in seconds: by default as SmolLM2-135M on two cores."""

    fixed_s: float = 0.0025
    row_s: float = 0.0024
    prompt_s: float = 0.0022

    def step_s(self, rows: int, prompt_tokens: int) -> float:
        """Gives how long a step takes."""
        return self.fixed_s + self.row_s * rows + self.prompt_s * prompt_tokens


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TimedBackend(FakeBackend):
    """Lets the clock go on by what each step costs."""

    def __init__(self, clock: VirtualClock, cost: StepCost, **shape: int) -> None:
        super().__init__(**shape)  # type: ignore[arg-type]
        self.clock = clock
        self.cost = cost

    def decode(self, chunks: Sequence[Chunk], lane: Lane) -> None:
        super().decode(chunks, lane)
        rows = 0 if lane.pooled else sum(chunk.rows for chunk in chunks)
        tokens = sum(chunk.count + len(chunk.drafts) for chunk in chunks)
        self.clock.now += self.cost.step_s(rows, tokens - rows)


class CountingUsage:
    """A UsageSink that adds up what was counted by `jti`, and says how often each was opened and closed."""

    def __init__(self) -> None:
        self.opened_ids: list[str] = []
        self.endings: dict[str, list[Ending]] = {}
        self.counts: dict[str, TokenCounts] = {}

    def opened(self, request: OpenedRequest) -> None:
        self.opened_ids.append(request.token_id)

    def counted(self, token_id: str, more: TokenCounts) -> None:
        old = self.counts.get(token_id, TokenCounts())
        self.counts[token_id] = TokenCounts(
            old.input_tokens + more.input_tokens,
            old.cached_input_tokens + more.cached_input_tokens,
            old.output_tokens + more.output_tokens,
            old.reasoning_tokens + more.reasoning_tokens,
        )

    def closed(self, token_id: str, ending: Ending) -> None:
        self.endings.setdefault(token_id, []).append(ending)


@dataclass(slots=True, eq=False)
class Reader:
    """A request with all that its stream was told, and when."""

    request: Request
    stream: Stream
    submitted_at: float
    times: list[float] = field(default_factory=list)
    events: list[Event | DomainError] = field(default_factory=list)
    cancelled: bool = False
    output_tokens: int = 0

    @property
    def started(self) -> Started | None:
        """Its Started event, if it came."""
        return next((event for event in self.events if isinstance(event, Started)), None)

    @property
    def done(self) -> Done | None:
        """Its Done event, if it came."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Done) else None

    @property
    def error(self) -> DomainError | None:
        """The error that ended it, if one did."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, DomainError) else None

    @property
    def ended(self) -> bool:
        """Whether nothing more may come."""
        return self.cancelled or self.done is not None or self.error is not None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def tokens_at(self) -> list[float]:
        """When each delta came."""
        return [at for at, event in zip(self.times, self.events, strict=True) if isinstance(event, Delta)]

    @property
    def ttft_s(self) -> float:
        """Seconds from submission to the first token, which must have come."""
        return self.tokens_at[0] - self.submitted_at

    @property
    def cached(self) -> int:
        """Its cached tokens, as told when it started."""
        assert self.started is not None, "it did not start"
        return self.started.cached_tokens


class DrivenCore:
    """An EngineCore over a fake model, driven step by step, with the events of each request."""

    def __init__(
        self,
        *,
        cost: StepCost | None = None,
        slots: int = 4,
        cells: int = 2_048,
        context_tokens: int = 512,
        sequences: int = 64,
        pace: PaceLimits | None = None,
        places: PlaceLimits | None = None,
        speculation: bool = False,
    ) -> None:
        self.clock = VirtualClock()
        self.backend = TimedBackend(
            self.clock,
            cost or StepCost(),
            slots=slots,
            cells=cells,
            context_tokens=context_tokens,
            sequences=sequences,
        )
        self.usage = CountingUsage()
        limits = CoreLimits(pace or PaceLimits(64), places or PlaceLimits(spare_slots=0), speculation)
        self.core = EngineCore(self.backend, limits, SilentObserver(), self.usage, nullcontext(), self.clock)
        self.readers: dict[Stream, Reader] = {}
        self.steps = 0

    def submit(
        self,
        prompt: str | tuple[int, ...],
        tenant: str = "a",
        output: int | None = 10,
        *,
        weight: int = 1,
        deadline_s: float | None = None,
        adapter: LoadedAdapter | None = None,
        pooled: bool = False,
        sampling: Sampling | None = None,
    ) -> Reader:
        """Submits a greedy request, unless `sampling` says otherwise; `deadline_s` counts from now."""
        request = Request(
            tuple(prompt.encode()) if isinstance(prompt, str) else prompt,
            sampling or Sampling(temperature=0, max_output_tokens=output),
            tenant=tenant,
            weight=weight,
            token_id=f"jti-{len(self.readers)}",
            adapter=adapter,
            pooled=pooled,
        )
        reader = Reader(request, Stream(1_000_000), self.clock.now)
        self.readers[reader.stream] = reader
        deadline = None if deadline_s is None else self.clock.now + deadline_s
        self.core.add(request, reader.stream, self.clock.now, deadline)
        self._collect()
        return reader

    def cancel(self, reader: Reader) -> None:
        """Cancels a request, as the engine does when its reader is gone."""
        reader.cancelled = reader.cancelled or not reader.ended
        self.core.cancel(reader.stream)
        self._collect()

    def purge(self, tenant: str) -> Purged:
        """Purges a tenant, and hands out what its readers are told."""
        purged = self.core.purge(tenant)
        self._collect()
        return purged

    def step(self) -> None:
        """Computes one step and hands its events out."""
        self.core.step()
        self.steps += 1
        self._collect()

    def run(self, until: Callable[[], bool] | None = None, at_most: int = 20_000) -> None:
        """Steps until `until` tells, or until idle; fails after `at_most` steps."""
        begun = self.steps
        while not self.core.idle and not (until is not None and until()):
            assert self.steps - begun < at_most, "no end in sight"
            self.step()

    def end_idle(self) -> None:
        """Runs to the end and checks that nothing is held but cached prefixes."""
        self.run()
        self.core.check_idle()
        assert self.backend.samplers == 0
        assert self.backend.held_cells == self.core.snapshot().used_cells
        assert all(reader.ended for reader in self.readers.values())

    @property
    def computed_tokens(self) -> int:
        """Tokens that all steps computed, drafts left out."""
        return sum(count for step in self.backend.steps for _, count in step)

    def _collect(self) -> None:
        for stream, event in self.core.outbox:
            reader = self.readers[stream]
            assert not reader.ended, f"{event} after the end"
            reader.times.append(self.clock.now)
            reader.events.append(event)
            reader.output_tokens += isinstance(event, Delta)
        self.core.outbox.clear()
