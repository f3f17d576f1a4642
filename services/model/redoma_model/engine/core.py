"""The engine without its thread: what happens in a step, from places and tokens to what is sent.

It knows neither threads nor the event loop: whoever drives it calls `step` while it is not idle and takes the events
out of `outbox`.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from redoma_kit.errors import DomainError, InvalidField
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import Backend, BadLogits, DecodeFailed, GrammarError, TokenLogprob
from redoma_model.engine.batch import Chunk, Step, add_drafts, compose
from redoma_model.engine.cells import OutOfCells
from redoma_model.engine.deadlines import Deadlines
from redoma_model.engine.fair_share import FairShare
from redoma_model.engine.lane import BASE_LANE
from redoma_model.engine.lanes import Lanes
from redoma_model.engine.lookup import ALL_FOLLOW, FIRST_GUESS, PromptLookup
from redoma_model.engine.observer import EngineObserver
from redoma_model.engine.pace import Pace, PaceLimits
from redoma_model.engine.places import PlaceLimits, Places
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import NO_SLOT, Request, Sequence
from redoma_model.engine.state import EngineSnapshot, Purged, StepTotals, snapshot
from redoma_model.engine.stream import Delta, Done, Event, FinishReason, Started, Stream
from redoma_model.engine.text import TextAssembler
from redoma_model.engine.usage import Ending, OpenedRequest, TokenCounts, UsageSink
from redoma_model.errors import AdapterNotFound, GenerationFailed, TenantPurged

_log = logging.getLogger(__name__)
MAX_SEED = 2**32 - 1
_ENDINGS = {FinishReason.STOP: Ending.STOP, FinishReason.LENGTH: Ending.LENGTH}


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """Bounds of the engine's work.

    Attributes:
        pace: How steps are sized.
        places: What may be held.
        speculation: Whether prompt lookup proposes drafts.
    """

    pace: PaceLimits
    places: PlaceLimits = field(default_factory=PlaceLimits)
    speculation: bool = True


class EngineCore:
    """Computes steps over all running requests. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        backend: Backend,
        limits: CoreLimits,
        observer: EngineObserver,
        usage: UsageSink,
        turn: AbstractContextManager[None],
        clock: Callable[[], float],
    ) -> None:
        """Makes an engine over a loaded model.

        Args:
            backend: The model.
            limits: Bounds of the work.
            observer: Told of what happens, for metrics.
            usage: Told of what requests cost.
            turn: Held while a step is computed; shared by the engines of a process.
            clock: Monotonic seconds.
        """
        self._backend = backend
        self._limits = limits
        self._observer = observer
        self._usage = usage
        self._turn = turn
        self._clock = clock
        self._pace = Pace(limits.pace)
        self._fair = FairShare()
        self._places = Places(backend, backend.info, self._fair, limits.places, clock)
        self._scheduler = self._places.scheduler
        self._lanes = Lanes(backend, self._places.cache)
        self._sequences: dict[Stream, Sequence] = {}
        self._streams: dict[Sequence, Stream] = {}
        self._totals = StepTotals()
        # Computed so far.
        self._chunks = 0
        # How well drafts went lately, where a new text starts from.
        self._acceptance = FIRST_GUESS
        self._preemptions_told = 0
        self._was_alone = False
        self._deadlines = Deadlines(self._places, self._pace)
        self.outbox: list[tuple[Stream, Event | DomainError]] = []
        # The tenants of requests that have ended, one entry each, until whoever drives the core takes them out.
        self.ended: list[str] = []

    # Requests in and out.

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return self._scheduler.idle

    def add(self, request: Request, stream: Stream, submitted_at: float, deadline: float | None) -> None:
        """Queues a request whose events go to `stream`."""
        try:
            lane = self._lanes.enter(request)
        except AdapterNotFound as error:
            self.outbox.append((stream, error))
            self.ended.append(request.tenant)
            return
        sequence = Sequence(
            request=request,
            text=TextAssembler(request.sampling.stop, request.may_reason, request.in_reasoning),
            limit=self._limit(request, request.granted_tokens),
            submitted_at=submitted_at,
            deadline=deadline,
            lane=lane,
        )
        self._sequences[stream] = sequence
        self._streams[sequence] = stream
        self._scheduler.add(sequence)
        self._usage.opened(OpenedRequest(request.token_id, request.tenant, request.adapter_digest))
        refusal = self._deadlines.refusal(sequence, self._clock())
        if refusal is not None:
            self._fail(sequence, refusal)

    def cancel(self, stream: Stream) -> None:
        """Ends a request whose reader is gone; harmless when it has ended."""
        sequence = self._sequences.get(stream)
        if sequence is not None:
            self._end(sequence, None, Ending.CANCELLED)
            self._observe()

    def grant(self, stream: Stream, tokens: int) -> None:
        """Lets a request have so many tokens in all; harmless when it may have them already, or has ended."""
        sequence = self._sequences.get(stream)
        if sequence is not None:
            sequence.limit = max(sequence.limit, self._limit(sequence.request, tokens))

    def end_all(self, error: DomainError) -> None:
        """Ends every request with `error`."""
        for sequence in list(self._streams):
            self._fail(sequence, error)

    def abandon(self, error: DomainError) -> None:
        """Sends `error` to every request that has not ended, and frees nothing."""
        self.outbox += ((stream, error) for stream in self._sequences)
        self._sequences.clear()
        self._streams.clear()

    def purge(self, tenant: str) -> Purged:
        """Ends the requests of a tenant and drops all that was computed for it."""
        cells, swapped_bytes = self._places.used_cells, self._places.swapped_bytes
        mine = [sequence for sequence in self._streams if sequence.request.tenant == tenant]
        for sequence in mine:
            self._fail(sequence, TenantPurged())
        _, host_bytes = self._places.cache.purge(tenant)
        self._observe()
        return Purged(
            ended_requests=len(mine),
            freed_cells=cells - self._places.used_cells,
            freed_host_bytes=swapped_bytes - self._places.swapped_bytes + host_bytes,
        )

    def load_adapter(self, adapter: LoadedAdapter, path: Path) -> LoadedAdapter:
        """Loads a LoRA adapter and gives it with its handle.

        Raises:
            AdapterFileError: It is no adapter of this model.
        """
        return self._lanes.load(adapter, path)

    def unload_adapter(self, digest: str, done: Callable[[], None]) -> None:
        """Frees an adapter as soon as no request uses it, then calls `done`. New requests must not name it any more."""
        self._lanes.unload(digest, done)

    def publish(self, tokens: tuple[int, ...]) -> None:
        """Computes a prefix that all requests on the base model may share, and keeps it for good. Call it while idle.

        Raises:
            ValueError: With it the KV cache would not hold a whole context window any more.
        """
        if not self.idle:
            raise ValueError("A public prefix can't be computed while requests run.")
        if self._places.free_cells - len(tokens) < self._backend.info.context_tokens:
            raise ValueError(
                f"A public prefix of {len(tokens)} tokens leaves less than a context window of the KV cache; "
                "raise kv_cells."
            )
        sequence = Sequence(Request(tokens, Sampling()), TextAssembler((), False, False), 0, self._clock())
        sequence.slot = 0
        try:
            while sequence.pending:
                chunk = Chunk(sequence, min(sequence.pending, self._limits.pace.step_tokens))
                with self._turn:
                    self._backend.decode([chunk], BASE_LANE)
                sequence.computed += chunk.count
            self._places.cache.publish(tokens, 0)
        finally:
            self._backend.forget(0)

    def snapshot(self) -> EngineSnapshot:
        """Gives what the engine is doing, between two steps."""
        return snapshot(self._places, self._fair, self._pace, self._totals, self._lanes.requests())

    def check_idle(self) -> None:
        """Raises RuntimeError when something is held that no request accounts for: a defect."""
        if self._sequences or self._streams:
            raise RuntimeError(f"leaked: {len(self._streams)} requests")
        self._places.check_idle()

    def _limit(self, request: Request, granted_tokens: int | None) -> int:
        """Gives the most tokens to generate."""
        if request.pooled:
            return 0
        room = self._backend.info.context_tokens - len(request.prompt)
        bounds = (request.sampling.max_output_tokens, granted_tokens)
        return min([room, *(bound for bound in bounds if bound is not None)])

    # A step.

    def step(self) -> None:
        """Computes one step: gives places away, composes it, decodes, samples. Call it while not idle."""
        begun_at = self._clock()
        for sequence, refusal in self._deadlines.hopeless(begun_at):
            self._fail(sequence, refusal)
        for sequence in self._places.admit():
            self._begin(sequence, begun_at)
        if not self._scheduler.running:
            return
        self._places.make_room_to_go_on(self._limits.pace.step_tokens)
        used = self._places.used_cells
        room = self._places.cells - used
        step = compose(self._scheduler.running, self._pace, max(1, room), not self._was_alone)
        if self._limits.speculation:
            step = add_drafts(step, self._pace, room)
        self._was_alone = step.alone
        self._compute(step, begun_at)
        rows = sum(chunk.count == 1 for chunk in step.chunks)
        tokens = sum(chunk.count for chunk in step.chunks)
        # Who generates waits for a prompt's chunk or for cells to be moved, but not for both.
        most_s = self._pace.rows_s(rows, 0) if tokens == rows else 0.0
        self._places.tidy(used, rows, tokens, most_s)
        for account in step.whole:
            line = self._scheduler.line(account.tenant)
            if line is None or not line.waiting:
                # It could not use more, so it saves nothing up against those who could.
                account.lift(step.cut)
        self._observe()

    def _compute(self, step: Step, begun_at: float) -> None:
        try:
            with self._turn:
                self._backend.decode(step.chunks, step.lane)
        except OutOfCells:
            if not self._places.cache.evict(len(step.chunks)) and not self._places.preempt_richest():
                self._fail_chunks(step.chunks)
            return
        except DecodeFailed as error:
            _log.error("A step failed: %s", error)
            self._isolate(step)
            return
        tokens = sum(chunk.count + len(chunk.drafts) for chunk in step.chunks)
        rows_context = sum(chunk.context_tokens for chunk in step.chunks if chunk.count == 1 and chunk.completes)
        context_tokens = sum(chunk.context_tokens for chunk in step.chunks) - rows_context
        rows = 0 if step.lane.pooled else sum(chunk.rows for chunk in step.chunks)
        outputs = self._totals.output_tokens
        self._take(step)
        duration_s = self._clock() - begun_at
        self._pace.observe(rows, tokens - rows, duration_s, context_tokens, rows_context)
        self._observer.step(duration_s, self._totals.output_tokens - outputs)

    def _take(self, step: Step) -> None:
        """Takes what a decoded step gave."""
        now = self._clock()
        row = 0
        for place, chunk in enumerate(step.chunks):
            rows = chunk.rows
            self._chunks += 1
            chunk.sequence.turn = self._chunks
            self._count(chunk)
            if step.lane.pooled:
                self._pool(chunk.sequence, place, now)
            elif rows:
                self._take_tokens(chunk, row, now)
                row += rows

    def _isolate(self, step: Step) -> None:
        """Computes the chunks of a failed step one by one, so that only the request that can't be computed ends."""
        for chunk in step.chunks:
            self._backend.forget(chunk.sequence.slot, chunk.sequence.computed)
        if len(step.chunks) == 1:
            self._fail_chunks(step.chunks)
            return
        for chunk in step.chunks:
            if chunk.sequence.slot != NO_SLOT:
                self._compute(Step(step.lane, [Chunk(chunk.sequence, chunk.count)]), self._clock())

    def _count(self, chunk: Chunk) -> None:
        """Counts a chunk as computed, and charges what of the prompt is in it for the first time."""
        sequence = chunk.sequence
        sequence.computed += chunk.count
        first = max(0, min(sequence.computed, len(sequence.request.prompt)) - sequence.charged)
        sequence.charged += first
        sequence.account.charge(first, 0)
        self._totals.prefill_tokens += first

    def _pool(self, sequence: Sequence, place: int, now: float) -> None:
        hidden = self._backend.pooled(place)
        sequence.hidden = hidden if sequence.hidden is None else sequence.hidden + hidden
        if sequence.pending:
            return
        length = float(np.linalg.norm(sequence.hidden))
        if not np.isfinite(length) or length == 0:
            _log.error("An embedding has no direction: its length is %s.", length)
            self._fail(sequence, GenerationFailed())
            return
        sequence.first_token_at = sequence.last_token_at = now
        done = _done(sequence, FinishReason.STOP)
        done.embedding = (sequence.hidden / length).astype(np.float32)
        self._end(sequence, done, Ending.STOP)

    def _take_tokens(self, chunk: Chunk, row: int, now: float) -> None:
        """Samples the token that follows and, as long as the sampler picks what was drafted, those that follow it."""
        sequence = chunk.sequence
        taken = 0
        for draft in (*chunk.drafts, None):
            token = self._take_token(sequence, row + taken, now)
            if token is None or token != draft:
                break
            taken += 1
            sequence.computed += 1
        if chunk.drafts and sequence.lookup is not None:
            part = sequence.lookup.settle(len(chunk.drafts), taken)
            self._acceptance += ALL_FOLLOW * (part - self._acceptance)
            self._totals.drafted_tokens += len(chunk.drafts)
            self._totals.accepted_draft_tokens += taken
            if sequence.slot != NO_SLOT and taken < len(chunk.drafts):
                self._backend.forget(sequence.slot, sequence.computed)

    def _take_token(self, sequence: Sequence, row: int, now: float) -> int | None:
        """Samples a token and sends what it adds; None when the request ended with it."""
        sampling = sequence.request.sampling
        try:
            token = self._backend.sample(sequence.sampler, row, not sequence.text.in_reasoning)
        except BadLogits as error:
            _log.error("A sequence failed: %s", error)
            self._fail(sequence, GenerationFailed())
            return None
        logprobs: list[TokenLogprob] = []
        if sampling.logprobs:
            logprobs.append(self._backend.logprobs(row, token, sampling.top_logprobs))
        sequence.tokens.append(token)
        sequence.account.charge(0, 1)
        self._totals.output_tokens += 1
        if sequence.first_token_at is None:
            self._first_token(sequence, now)
        sequence.last_token_at = now
        delta, reason = self._assemble(sequence, token)
        delta.logprobs = logprobs
        self.outbox.append((self._streams[sequence], delta))
        if reason is None:
            return token
        self._end(sequence, _done(sequence, reason), _ENDINGS[reason])
        return None

    def _assemble(self, sequence: Sequence, token: int) -> tuple[Delta, FinishReason | None]:
        """Gives what a sampled token adds to the answer, and why the answer ends with it, if it does."""
        text = sequence.text
        was_reasoning = text.in_reasoning
        ends = self._backend.is_end(token) and not sequence.request.sampling.ignore_eos
        piece = text.feed(b"" if ends else self._backend.piece(token))
        reasoning = was_reasoning or text.in_reasoning
        sequence.reasoning_tokens += reasoning
        self._usage.counted(sequence.request.token_id, TokenCounts(0, 0, 1, int(reasoning)))
        delta = Delta(piece.text, piece.reasoning, sequence.output_tokens, sequence.reasoning_tokens)
        if not ends and not text.stopped and sequence.output_tokens < sequence.limit:
            return delta, None
        rest = text.finish()
        delta.text += rest.text
        delta.reasoning += rest.reasoning
        return delta, FinishReason.STOP if ends or text.stopped else FinishReason.LENGTH

    def _first_token(self, sequence: Sequence, now: float) -> None:
        sequence.first_token_at = now
        self._observer.first_token(now - sequence.submitted_at)
        if self._limits.speculation:
            sequence.lookup = PromptLookup(sequence.tokens, self._acceptance)
        self._places.keep_prefix(sequence)

    # The life of a request.

    def _begin(self, sequence: Sequence, now: float) -> None:
        if sequence.admitted_at is not None:
            return  # It was preempted and goes on.
        request, account = sequence.request, sequence.account
        sequence.admitted_at = now
        sequence.charged = sequence.computed
        sequence.cached_tokens = sequence.lease.own if sequence.lease is not None else 0
        account.input_tokens += len(request.prompt)
        account.cached_input_tokens += sequence.cached_tokens
        queue_s = now - sequence.submitted_at
        if not request.pooled:
            seed = secrets.randbelow(MAX_SEED) if request.sampling.seed is None else request.sampling.seed
            try:
                sequence.sampler = self._backend.create_sampler(request.sampling, seed, request.prompt)
            except GrammarError as error:
                self._fail(sequence, InvalidField("messages", f"can't be continued in the form asked for: {error}"))
                return
        if (line := self._scheduler.line(request.tenant)) is not None:
            line.note_admission(now)
        self.outbox.append((self._streams[sequence], Started(len(request.prompt), sequence.cached_tokens, queue_s)))
        self._usage.counted(request.token_id, TokenCounts(len(request.prompt), sequence.cached_tokens))
        self._observer.admitted(len(request.prompt), sequence.cached_tokens, queue_s)

    def _fail_chunks(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            if chunk.sequence in self._streams:
                self._fail(chunk.sequence, GenerationFailed())

    def _fail(self, sequence: Sequence, error: DomainError) -> None:
        self._end(sequence, error, Ending.INTERRUPTED)

    def _end(self, sequence: Sequence, last: Done | DomainError | None, ending: Ending) -> None:
        """Frees all that a sequence holds, then sends its last event."""
        self._places.leave(sequence, keep=ending is not Ending.INTERRUPTED)
        self._lanes.leave(sequence.request)
        if sequence.sampler is not None:
            self._backend.free_sampler(sequence.sampler)
            sequence.sampler = None
        stream = self._streams.pop(sequence)
        del self._sequences[stream]
        self.ended.append(sequence.request.tenant)
        self._usage.closed(sequence.request.token_id, ending)
        self._observer.ended(sequence.output_tokens)
        if last is not None:
            self.outbox.append((stream, last))

    def _observe(self) -> None:
        while self._preemptions_told < self._places.preemptions:
            self._preemptions_told += 1
            self._observer.preempted()
        running, waiting, cached = len(self._scheduler.running), self._scheduler.waiting, self._places.cache.cells
        self._observer.occupied(running, waiting, self._places.used_cells, cached)


def _done(sequence: Sequence, reason: FinishReason) -> Done:
    admitted_at = sequence.admitted_at or 0.0
    first_token_at = sequence.first_token_at or admitted_at
    last_token_at = sequence.last_token_at or first_token_at
    return Done(
        finish_reason=reason,
        output_tokens=sequence.output_tokens,
        reasoning_tokens=sequence.reasoning_tokens,
        prefill_s=first_token_at - admitted_at,
        decode_s=last_token_at - first_token_at,
    )
