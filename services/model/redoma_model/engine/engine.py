"""The engine: one thread that computes steps over all running requests, and an asynchronous face for the event loop.

The thread owns backend, scheduler and sequences. The loop reaches it through an inbox that it empties before each step;
it reaches the loop with one call a step, which carries all the step's events. Neither waits for the other.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue

from redoma_kit.errors import DomainError, ShuttingDown
from redoma_model.engine.backend import Backend, BackendLoader, BadLogits, DecodeFailed, OutOfCells, TokenLogprob
from redoma_model.engine.batch import Chunk
from redoma_model.engine.observer import EngineObserver
from redoma_model.engine.scheduler import Scheduler
from redoma_model.engine.sequence import NO_SLOT, Request, Sequence
from redoma_model.engine.stream import Delta, Done, Event, FinishReason, Started, Stream
from redoma_model.engine.text import TextAssembler
from redoma_model.errors import GenerationFailed, ModelLoading, QueueFull

_log = logging.getLogger(__name__)
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the engine.

    Attributes:
        step_tokens: Most tokens of one step.
        headroom_tokens: KV cells set aside for an answer when its request is admitted.
        max_waiting: Most requests that wait beyond those that run.
        max_undelivered_tokens: Most tokens a slow reader may leave unread.
    """

    step_tokens: int = 64
    headroom_tokens: int = 256
    max_waiting: int = 256
    max_undelivered_tokens: int = 2_048


class EngineState(Enum):
    """Where the engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What is in use."""

    running: int
    waiting: int
    used_cells: int
    free_slots: int


@dataclass(frozen=True, slots=True)
class _Submit:
    stream: Stream
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class _Cancel:
    stream: Stream


@dataclass(frozen=True, slots=True)
class _Inspect:
    answer: "asyncio.Future[Occupancy]"


class _Stop:
    pass


_Command = _Submit | _Cancel | _Inspect | _Stop


class Engine:
    """Generates for many requests at once from one loaded model."""

    def __init__(
        self,
        load: BackendLoader,
        limits: EngineLimits,
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._lock = threading.Lock()
        # Requests submitted and not ended. The lock guards it, and that nothing is submitted to a stopped engine.
        self._open = 0
        self._streams: dict[Sequence, Stream] = {}
        self._sequences: dict[Stream, Sequence] = {}
        self._outbox: list[tuple[Stream, Event | DomainError]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._state = EngineState.LOADING
        self._loop: asyncio.AbstractEventLoop
        self._loaded: asyncio.Future[Backend]
        self._ended: asyncio.Future[BaseException | None]
        self._backend: Backend
        self._scheduler: Scheduler

    # The loop's side.

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._state

    def start(self) -> None:
        """Starts the thread, which loads the model first. Call it on the event loop that will submit requests."""
        self._loop = asyncio.get_running_loop()
        self._loaded = self._loop.create_future()
        # Nobody needs to wait for it: a failure that is not asked for is none of the event loop's business.
        self._loaded.add_done_callback(lambda loaded: loaded.cancelled() or loaded.exception())
        self._ended = self._loop.create_future()
        self._thread.start()

    async def wait_loaded(self) -> Backend:
        """Waits until the model is loaded and gives it, for its info and its tokenizer.

        Raises:
            ModelFileError: It can't be loaded.
        """
        return await asyncio.shield(self._loaded)

    async def wait_ended(self) -> None:
        """Waits until the thread has ended.

        Raises:
            BaseException: What ended it, unless `stop` or a model that can't be loaded did.
        """
        failure = await asyncio.shield(self._ended)
        if failure is not None:
            raise failure

    def check_room(self, coming: int) -> None:
        """Checks that one more request would be accepted now, after `coming` others that are not submitted yet.

        Raises:
            ModelLoading: The model is not loaded yet.
            QueueFull: As many requests wait as may.
        """
        if self._state is EngineState.LOADING:
            raise ModelLoading()
        with self._lock:
            if self._open + coming >= self._backend.info.slots + self._limits.max_waiting:
                raise QueueFull(self._limits.max_waiting)

    def submit(self, request: Request) -> Stream:
        """Queues a request and gives the stream of its events. Call `cancel` when nobody reads it any more.

        Raises:
            ModelLoading: The model is not loaded yet.
            QueueFull: As many requests wait as may.
            ShuttingDown: The engine has stopped.
        """
        if self._state is EngineState.LOADING:
            raise ModelLoading()
        info = self._backend.info
        room = info.context_tokens - len(request.prompt)
        asked = request.sampling.max_output_tokens
        sequence = Sequence(
            request=request,
            text=TextAssembler(request.sampling.stop, request.may_reason, request.in_reasoning),
            limit=room if asked is None else min(asked, room),
            submitted_at=self._clock(),
        )
        stream = Stream(self._limits.max_undelivered_tokens)
        with self._lock:
            if self._state is EngineState.STOPPED:
                raise ShuttingDown()
            if self._open >= info.slots + self._limits.max_waiting:
                raise QueueFull(self._limits.max_waiting)
            self._open += 1
            self._inbox.put(_Submit(stream, sequence))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Ends a request whose reader is gone: its slot is free before the next step. Harmless when it has ended."""
        if not stream.closed:
            stream.close()
            self._inbox.put(_Cancel(stream))

    async def occupancy(self) -> Occupancy:
        """Gives what is in use between two steps."""
        answer: asyncio.Future[Occupancy] = self._loop.create_future()
        self._inbox.put(_Inspect(answer))
        return await answer

    async def stop(self) -> None:
        """Ends every request with ShuttingDown, or ends loading, frees the model and joins the thread."""
        if self._thread.ident is None:
            return
        self._inbox.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    def _deliver(self, events: list[tuple[Stream, Event | DomainError]]) -> None:
        for stream, event in events:
            if not stream.deliver(event):
                self._inbox.put(_Cancel(stream))

    # The thread's side.

    def _run(self) -> None:
        try:
            backend = self._load(self._report_loading)
        except BaseException as error:
            self._state = EngineState.STOPPED
            self._tell(self._loaded.set_exception, error)
            self._tell(self._ended.set_result, None)
            return
        self._backend = backend
        self._scheduler = Scheduler(
            backend.info.slots, backend.info.cells, self._limits.step_tokens, self._limits.headroom_tokens
        )
        self._state = EngineState.READY
        self._tell(self._loaded.set_result, backend)
        failure: BaseException | None = None
        try:
            self._serve()
        except BaseException as error:
            _log.exception("The engine's thread died.")
            failure = error
        finally:
            with self._lock:
                self._state = EngineState.STOPPED
            self._end_all(ShuttingDown() if failure is None else GenerationFailed())
            backend.close()
            self._tell(self._ended.set_result, failure)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            _log.debug("The event loop is closed.")

    def _report_loading(self, part: float) -> bool:
        self._observer.loading(part)
        return self._inbox.empty()

    def _serve(self) -> None:
        while True:
            while self._scheduler.idle or not self._inbox.empty():
                command = self._inbox.get()
                if isinstance(command, _Stop):
                    return
                self._obey(command)
            self._step()
            self._flush()
            if self._scheduler.idle:
                self._check_idle()

    def _check_idle(self) -> None:
        """Raises RuntimeError when something is held that no request accounts for: a defect."""
        slots = self._backend.info.slots
        if self._streams or self._sequences or self._scheduler.free_slots != slots or self._backend.held_cells:
            raise RuntimeError(
                f"leaked: {len(self._streams)} streams, {slots - self._scheduler.free_slots} slots, "
                f"{self._backend.held_cells} cells"
            )

    def _obey(self, command: _Command) -> None:
        match command:
            case _Submit(stream, sequence):
                self._streams[sequence] = stream
                self._sequences[stream] = sequence
                self._scheduler.add(sequence)
            case _Cancel(stream):
                if (cancelled := self._sequences.get(stream)) is not None:
                    self._end(cancelled, None)
                    self._observe()
            case _Inspect(answer):
                scheduler = self._scheduler
                occupancy = Occupancy(
                    len(scheduler.running), len(scheduler.waiting), scheduler.used_cells, scheduler.free_slots
                )
                self._tell(answer.set_result, occupancy)

    def _step(self) -> None:
        begun_at = self._clock()
        for sequence in self._scheduler.admit():
            self._begin(sequence, begun_at)
        while self._scheduler.short_of_cells:
            self._preempt()
        chunks = self._scheduler.next_step()
        try:
            self._backend.decode(chunks)
        except OutOfCells:
            if not self._preempt():
                self._fail(chunks)
            return
        except DecodeFailed as error:
            _log.error("A step failed: %s", error)
            self._fail(chunks)
            return
        now = self._clock()
        row = 0
        computed = 0
        for chunk in chunks:
            completes = chunk.completes
            chunk.sequence.computed += chunk.count
            computed += chunk.count
            if completes:
                self._take_token(chunk.sequence, row, now)
                row += 1
        self._observer.step(now - begun_at, computed - row, row)
        self._observe()

    def _begin(self, sequence: Sequence, now: float) -> None:
        if sequence.sampler is not None:
            return  # It was preempted and goes on.
        sampling = sequence.request.sampling
        seed = secrets.randbelow(MAX_SEED) if sampling.seed is None else sampling.seed
        sequence.sampler = self._backend.create_sampler(sampling, seed, sequence.request.prompt)
        sequence.admitted_at = now
        queue_s = now - sequence.submitted_at
        self._outbox.append((self._streams[sequence], Started(len(sequence.request.prompt), queue_s)))
        self._observer.admitted(len(sequence.request.prompt), queue_s)
        self._flush()

    def _take_token(self, sequence: Sequence, row: int, now: float) -> None:
        backend = self._backend
        sampling = sequence.request.sampling
        try:
            token = backend.sample(sequence.sampler, row)
        except BadLogits as error:
            _log.error("A sequence failed: %s", error)
            self._end(sequence, GenerationFailed())
            return
        logprobs: list[TokenLogprob] = []
        if sampling.logprobs:
            logprobs.append(backend.logprobs(row, token, sampling.top_logprobs))
        sequence.tokens.append(token)
        if sequence.first_token_at is None:
            sequence.first_token_at = now
            self._observer.first_token(now - sequence.submitted_at)
        sequence.last_token_at = now

        text = sequence.text
        was_reasoning = text.in_reasoning
        ends = backend.is_end(token) and not sampling.ignore_eos
        piece = text.feed(b"" if ends else backend.piece(token))
        sequence.reasoning_tokens += was_reasoning or text.in_reasoning
        reason: FinishReason | None = None
        if ends or text.stopped:
            reason = FinishReason.STOP
        elif sequence.output_tokens >= sequence.limit:
            reason = FinishReason.LENGTH
        delta = Delta(piece.text, piece.reasoning, sequence.output_tokens, sequence.reasoning_tokens, 1, logprobs)
        if reason is not None:
            rest = text.finish()
            delta.text += rest.text
            delta.reasoning += rest.reasoning
        self._outbox.append((self._streams[sequence], delta))
        if reason is not None:
            self._end(sequence, self._done(sequence, reason))

    @staticmethod
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

    def _preempt(self) -> bool:
        preempted = self._scheduler.preempt_youngest()
        if preempted is None:
            return False
        self._backend.forget(preempted[1])
        self._observer.preempted()
        return True

    def _fail(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._end(chunk.sequence, GenerationFailed())

    def _end(self, sequence: Sequence, last: Done | DomainError | None) -> None:
        """Frees all that a sequence holds, then sends its last event."""
        slot = self._scheduler.remove(sequence)
        if slot != NO_SLOT:
            self._backend.forget(slot)
        if sequence.sampler is not None:
            self._backend.free_sampler(sequence.sampler)
            sequence.sampler = None
        stream = self._streams.pop(sequence)
        del self._sequences[stream]
        with self._lock:
            self._open -= 1
        self._observer.ended(sequence.output_tokens)
        if last is not None:
            self._outbox.append((stream, last))

    def _end_all(self, error: DomainError) -> None:
        while not self._inbox.empty():
            self._obey(self._inbox.get())
        for sequence in list(self._streams):
            self._end(sequence, error)
        self._flush()

    def _observe(self) -> None:
        scheduler = self._scheduler
        self._observer.occupied(len(scheduler.running), len(scheduler.waiting), scheduler.used_cells)

    def _flush(self) -> None:
        if self._outbox:
            self._tell(self._deliver, self._outbox)
            self._outbox = []
