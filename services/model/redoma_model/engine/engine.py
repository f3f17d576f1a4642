"""The engine's thread and its asynchronous face for the event loop.

The thread owns the core and everything below it. The loop reaches it through an inbox that it empties before each
step; it reaches the loop with one call a step, which carries all the step's events. Neither waits for the other.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from redoma_kit.errors import DomainError, ShuttingDown
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import Backend, BackendLoader
from redoma_model.engine.commands import Cancel, Command, Grant, Run, Stop, Submit
from redoma_model.engine.core import CoreLimits, EngineCore
from redoma_model.engine.observer import EngineObserver
from redoma_model.engine.room import Room
from redoma_model.engine.sequence import Request
from redoma_model.engine.state import EngineSnapshot, Purged
from redoma_model.engine.stream import Event, Stream
from redoma_model.engine.usage import UsageSink
from redoma_model.errors import EngineStalled, GenerationFailed, ModelLoading

_log = logging.getLogger(__name__)
T = TypeVar("T")
# How often an engine that turns idle looks for what it holds and shouldn't, in seconds.
CHECK_EVERY_S = 1.0
# How often the thread is looked after, and how long an answer about its state is waited for, in seconds.
WATCH_EVERY_S = 1.0
SNAPSHOT_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the engine.

    Attributes:
        core: Of its work.
        max_waiting: Most requests that wait beyond those that run.
        max_waiting_per_tenant: Most of them of one tenant.
        max_undelivered_tokens: Most tokens a slow reader may leave unread.
        max_step_s: The longest a step may last; the engine is taken for dead then.
    """

    core: CoreLimits
    max_waiting: int = 256
    max_waiting_per_tenant: int = 128
    max_undelivered_tokens: int = 2_048
    max_step_s: float = 60.0


class EngineState(Enum):
    """Where the engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    STOPPED = "stopped"


class Engine:
    """Computes for many requests at once from one loaded model."""

    def __init__(
        self,
        load: BackendLoader,
        limits: EngineLimits,
        observer: EngineObserver,
        usage: UsageSink,
        turn: AbstractContextManager[None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes an engine; `start` loads its model.

        Args:
            load: Loads the model, on the engine's thread.
            limits: Bounds.
            observer: Told of what happens, for metrics.
            usage: Told of what requests cost.
            turn: Held while a step is computed; shared by the engines of a process. None: it is the only one.
            clock: Monotonic seconds.
        """
        self._load = load
        self._limits = limits
        self._observer = observer
        self._usage = usage
        self._turn = turn if turn is not None else nullcontext()
        self._clock = clock
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._room = Room(limits.max_waiting, limits.max_waiting_per_tenant)
        self._stopping = False
        # When the thread began the step it is in; None between steps.
        self._step_begun_at: float | None = None
        self._watching: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._state = EngineState.LOADING
        self._loop: asyncio.AbstractEventLoop
        self._loaded: asyncio.Future[Backend]
        self._ended: asyncio.Future[BaseException | None]

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
        self._watching = asyncio.create_task(self._watch())

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

    def check_room(self, tenant: str, coming: int) -> None:
        """Checks that one more request would be accepted now, after `coming` others that are not submitted yet.

        Raises:
            ModelLoading: The model is not loaded yet.
            QueueFull: As many requests wait as may, in all or of the tenant.
        """
        if self._state is EngineState.LOADING:
            raise ModelLoading()
        self._room.check(tenant, coming)

    def submit(self, request: Request, deadline: float | None = None) -> Stream:
        """Queues a request and gives the stream of its events. Call `cancel` when nobody reads it any more.

        Args:
            request: What to compute.
            deadline: When its caller gives up, on the engine's clock; None is never.

        Raises:
            ModelLoading: The model is not loaded yet.
            QueueFull: As many requests wait as may, in all or of the tenant.
            ShuttingDown: The engine has stopped.
        """
        if self._state is EngineState.LOADING:
            raise ModelLoading()
        stream = Stream(self._limits.max_undelivered_tokens)
        submitted = Submit(request, stream, self._clock(), deadline)
        self._room.enter(request.tenant, lambda: self._inbox.put(submitted))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Ends a request whose reader is gone: its slot is free before the next step. Harmless when it has ended."""
        if not stream.closed:
            stream.close()
            self._inbox.put(Cancel(stream))

    def grant(self, stream: Stream, tokens: int) -> None:
        """Lets a request have so many tokens in all, from the next step on. Harmless when it has ended."""
        if not stream.closed:
            self._inbox.put(Grant(stream, tokens))

    async def snapshot(self) -> EngineSnapshot:
        """Gives what the engine is doing, between two steps.

        Raises:
            EngineStalled: It does not come to the end of a step.
        """
        try:
            async with asyncio.timeout(SNAPSHOT_PATIENCE_S):
                return await self._on_thread(lambda core: core.snapshot())
        except TimeoutError:
            raise EngineStalled(self.step_age_s) from None

    @property
    def step_age_s(self) -> float:
        """How long the step that is being computed has lasted, in seconds; 0 between steps."""
        begun_at = self._step_begun_at
        return 0.0 if begun_at is None else self._clock() - begun_at

    async def purge(self, tenant: str) -> Purged:
        """Ends the requests of a tenant with TenantPurged and drops all that was computed for it."""
        return await self._on_thread(lambda core: core.purge(tenant))

    async def publish(self, tokens: tuple[int, ...]) -> None:
        """Computes a prefix that all requests on the base model may share, and keeps it for good.

        Raises:
            ValueError: It leaves less than a context window of the KV cache.
        """
        await self._on_thread(lambda core: core.publish(tokens))

    async def load_adapter(self, adapter: LoadedAdapter, path: Path) -> LoadedAdapter:
        """Loads a LoRA adapter and gives it with its handle.

        Raises:
            AdapterFileError: It is no adapter of this model.
        """
        return await self._on_thread(lambda core: core.load_adapter(adapter, path))

    async def unload_adapter(self, digest: str) -> None:
        """Waits until no request uses an adapter, then frees it and what was computed with it. Submit none that
        names it any more."""
        freed: asyncio.Future[None] = self._loop.create_future()

        def free() -> None:
            self._tell(_settle, freed, None)

        await self._on_thread(lambda core: core.unload_adapter(digest, free))
        await asyncio.wait((freed, self._ended), return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Ends every request with ShuttingDown, or ends loading, frees the model and joins the thread."""
        if self._thread.ident is None:
            return
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
        self._inbox.put(Stop())
        if self.step_age_s <= self._limits.max_step_s:
            await asyncio.to_thread(self._thread.join, self._limits.max_step_s)

    async def _watch(self) -> None:
        """Takes the engine for dead when a step lasts too long, such as one that hangs within the library."""
        while self.step_age_s <= self._limits.max_step_s:  # noqa: ASYNC110 (the thread that hangs sets no event)
            await asyncio.sleep(WATCH_EVERY_S)
        _log.critical("A step has lasted %.0f s; the engine is taken for dead.", self.step_age_s)
        _settle(self._ended, EngineStalled(self.step_age_s))

    async def _on_thread(self, job: Callable[[EngineCore], T]) -> T:
        if self._state is EngineState.LOADING:
            raise ModelLoading()
        answer: asyncio.Future[T] = self._loop.create_future()

        def run(core: EngineCore) -> None:
            try:
                result = job(core)
            except Exception as error:
                self._tell(_fail, answer, error)
            else:
                self._tell(_settle, answer, result)

        self._inbox.put(Run(run, lambda error: self._tell(_fail, answer, error)))
        if self._state is EngineState.STOPPED:
            raise ShuttingDown()
        return await answer

    def _deliver(self, events: list[tuple[Stream, Event | DomainError]]) -> None:
        for stream, event in events:
            if not stream.deliver(event):
                self._inbox.put(Cancel(stream))

    # The thread's side.

    def _run(self) -> None:
        try:
            backend = self._load(self._report_loading)
        except BaseException as error:
            self._state = EngineState.STOPPED
            self._room.close()
            self._tell(self._loaded.set_exception, error)
            self._tell(_settle, self._ended, None)
            return
        core = EngineCore(backend, self._limits.core, self._observer, self._usage, self._turn, self._clock)
        self._room.slots = backend.info.slots
        self._state = EngineState.READY
        self._tell(self._loaded.set_result, backend)
        failure: BaseException | None = None
        try:
            self._serve(core)
        except BaseException as error:
            _log.exception("The engine's thread died.")
            failure = error
        finally:
            self._state = EngineState.STOPPED
            self._room.close()
            try:
                self._close(core, failure)
                backend.close()
            except BaseException as error:
                _log.exception("The engine could not be taken down in order.")
                failure = failure or error
            finally:
                self._tell(_settle, self._ended, failure)

    def _serve(self, core: EngineCore) -> None:
        check_at = 0.0
        while True:
            while core.idle or not self._inbox.empty():
                command = self._inbox.get()
                if isinstance(command, Stop):
                    return
                self._obey(core, command)
                self._flush(core)
            self._step_begun_at = self._clock()
            core.step()
            self._step_begun_at = None
            self._flush(core)
            if core.idle and self._clock() >= check_at:
                core.check_idle()
                check_at = self._clock() + CHECK_EVERY_S

    def _obey(self, core: EngineCore, command: Command) -> None:
        match command:
            case Submit(request, stream, submitted_at, deadline):
                core.add(request, stream, submitted_at, deadline)
            case Cancel(stream):
                core.cancel(stream)
            case Grant(stream, tokens):
                core.grant(stream, tokens)
            case Run(job):
                job(core)

    def _close(self, core: EngineCore, failure: BaseException | None) -> None:
        """Ends what is there and what came in last. After a failure nothing is freed, as the books may be wrong."""
        error = ShuttingDown() if failure is None else GenerationFailed()
        late: list[tuple[Stream, Event | DomainError]] = []
        while not self._inbox.empty():
            match self._inbox.get():
                case Submit(stream=stream):
                    late.append((stream, error))
                case Run(refuse=refuse):
                    refuse(error)
        try:
            if failure is None:
                core.end_all(error)
        finally:
            core.abandon(error)
            core.outbox += late
            self._flush(core)

    def _flush(self, core: EngineCore) -> None:
        # First, so that whoever reads the last event of a request finds its place free.
        for tenant in core.ended:
            self._room.leave(tenant)
        core.ended.clear()
        if core.outbox:
            self._tell(self._deliver, core.outbox)
            core.outbox = []

    def _report_loading(self, part: float) -> bool:
        self._observer.loading(part)
        return not self._stopping

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            _log.debug("The event loop is closed.")


def _settle(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
