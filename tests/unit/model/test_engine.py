"""The engine's thread and the event loop beside it: bounds, cancels, slow readers, jobs between steps, and its end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from redoma_kit.errors import DomainError, ShuttingDown
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import AdapterFileError, DecodeFailed
from redoma_model.engine.commands import Stop, Submit
from redoma_model.engine.core import CoreLimits
from redoma_model.engine.engine import Engine, EngineLimits, EngineState
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Delta, Done, Event, FinishReason, Started, Stream
from redoma_model.engine.turnstile import Turnstile
from redoma_model.engine.usage import Ending
from redoma_model.errors import GenerationFailed, ModelLoading, QueueFull, ReaderTooSlow, TenantPurged
from tests.fakes.driven_core import CountingUsage
from tests.fakes.model_backend import FakeBackend, loader
from tests.fakes.silent_observer import SilentObserver

PATIENCE_S = 20.0


def limits(**bounds: int) -> EngineLimits:
    return EngineLimits(CoreLimits(PaceLimits(64)), **bounds)


class Running:
    """A started engine over a fake model."""

    def __init__(self, engine: Engine, backend: FakeBackend, usage: CountingUsage) -> None:
        self.engine = engine
        self.backend = backend
        self.usage = usage

    def submit(self, text: str, tenant: str = "a", output: int | None = None) -> Stream:
        prompt = tuple(self.backend.tokenize(text, parse_special=False))
        sampling = Sampling(temperature=0, max_output_tokens=output)
        return self.engine.submit(Request(prompt, sampling, tenant=tenant, token_id=text))

    async def pause(self) -> None:
        """Holds the engine in a step; something must run."""
        self.backend.pause()
        await asyncio.to_thread(self.backend.wait_paused)

    async def answer(self, text: str, tenant: str = "a") -> str:
        return text_of(await events_of(self.submit(text, tenant)))


@asynccontextmanager
async def running(
    bounds: EngineLimits | None = None, backend: FakeBackend | None = None, stops: bool = True
) -> AsyncIterator[Running]:
    """Runs an engine, stops it, and checks that it leaves nothing."""
    backend = backend or FakeBackend()
    usage = CountingUsage()
    engine = Engine(loader(backend), bounds or limits(), SilentObserver(), usage)
    engine.start()
    try:
        await asyncio.wait_for(engine.wait_loaded(), PATIENCE_S)
        yield Running(engine, backend, usage)
    finally:
        backend.resume()
        await asyncio.wait_for(engine.stop(), PATIENCE_S)
    if stops:
        await asyncio.wait_for(engine.wait_ended(), PATIENCE_S)
        assert backend.samplers == 0
    assert backend.closed
    assert engine.state is EngineState.STOPPED


async def events_of(stream: Stream) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in stream]


async def error_of(stream: Stream) -> BaseException:
    with pytest.raises(DomainError) as caught:
        await events_of(stream)
    return caught.value


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_an_answer_comes_without_a_server() -> None:
    async with running() as it:
        events = await events_of(it.submit("say:hello"))
    assert isinstance(events[0], Started)
    assert text_of(events) == "hello"
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.output_tokens) == (FinishReason.STOP, 6)


async def test_many_answers_at_once_are_each_their_own() -> None:
    async with running(backend=FakeBackend(slots=4)) as it:
        texts = await asyncio.gather(*(it.answer(f"say:number {number}", "abc"[number % 3]) for number in range(30)))
        snapshot = await it.engine.snapshot()
    assert texts == [f"number {number}" for number in range(30)]
    assert (snapshot.running, snapshot.waiting) == (0, 0)


async def test_nothing_is_accepted_before_the_model_is_loaded() -> None:
    gate = threading.Event()
    backend = FakeBackend()
    engine = Engine(loader(backend, gate), limits(), SilentObserver(), CountingUsage())
    engine.start()
    request = Request((1,), Sampling())
    refused: list[Callable[[], object]] = [lambda: engine.submit(request), lambda: engine.check_room("a", 0)]
    for call in refused:
        with pytest.raises(ModelLoading):
            call()
    with pytest.raises(ModelLoading):
        await engine.snapshot()
    gate.set()
    await asyncio.wait_for(engine.wait_loaded(), PATIENCE_S)
    await engine.stop()


async def test_a_model_that_can_not_be_loaded_ends_the_engine_with_its_reason() -> None:
    def fails(progress: object) -> FakeBackend:
        raise ValueError("no model")

    engine = Engine(fails, limits(), SilentObserver(), CountingUsage())
    engine.start()
    with pytest.raises(ValueError, match="no model"):
        await asyncio.wait_for(engine.wait_loaded(), PATIENCE_S)
    await asyncio.wait_for(engine.wait_ended(), PATIENCE_S)
    with pytest.raises(ShuttingDown):
        engine.submit(Request((1,), Sampling()))
    with pytest.raises(ShuttingDown):
        await engine.snapshot()
    await engine.stop()


# Bounds.


async def test_a_tenants_line_is_bounded_and_others_still_come_in() -> None:
    async with running(limits(max_waiting=10, max_waiting_per_tenant=2), FakeBackend(slots=1)) as it:
        it.backend.pause()
        mine = [it.submit("say:x", "a") for _ in range(3)]
        with pytest.raises(QueueFull):
            it.submit("say:x", "a")
        with pytest.raises(QueueFull):
            it.engine.check_room("a", 0)
        other = it.submit("say:y", "b")
        it.backend.resume()
        await asyncio.gather(*(events_of(stream) for stream in (*mine, other)))
        assert await it.answer("say:z", "a") == "z"


async def test_all_that_wait_are_bounded_whoever_they_are() -> None:
    async with running(limits(max_waiting=3, max_waiting_per_tenant=2), FakeBackend(slots=1)) as it:
        it.backend.pause()
        streams = [it.submit("say:x", f"t{number}") for number in range(4)]
        with pytest.raises(QueueFull):
            it.submit("say:x", "another")
        it.backend.resume()
        await asyncio.gather(*map(events_of, streams))
        it.engine.check_room("another", 3)
        with pytest.raises(QueueFull):
            it.engine.check_room("another", 4)


async def test_a_cancelled_request_leaves_its_place_in_the_line() -> None:
    async with running(limits(max_waiting=2, max_waiting_per_tenant=2), FakeBackend(slots=1)) as it:
        streams = [it.submit("on and on") for _ in range(3)]
        for stream in streams:
            it.engine.cancel(stream)
            it.engine.cancel(stream)
        assert (await it.engine.snapshot()).running == 0
        assert await it.answer("say:x") == "x"
    assert it.usage.endings["on and on"] == [Ending.CANCELLED] * 3


async def test_a_reader_that_lags_gets_merged_deltas() -> None:
    async with running() as it:
        stream = it.submit("say:a long answer")
        while "say:a long answer" not in it.usage.endings:
            await it.engine.snapshot()
        events = await events_of(stream)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) < 14
    assert sum(delta.tokens for delta in deltas) == deltas[-1].output_tokens == 14
    assert text_of(events) == "a long answer"


async def test_a_reader_that_takes_nothing_is_ended_and_its_place_is_free() -> None:
    async with running(limits(max_undelivered_tokens=20)) as it:
        slow = it.submit("on and on")
        while "on and on" not in it.usage.endings:
            await it.engine.snapshot()
        assert isinstance(await error_of(slow), ReaderTooSlow)
        assert it.usage.endings["on and on"] == [Ending.CANCELLED]
        assert await it.answer("say:x") == "x"


# Jobs between steps.


async def test_purge_ends_what_runs_and_says_what_it_freed() -> None:
    async with running() as it:
        mine, other = it.submit("on and on", "a"), it.submit("say:fine", "b")
        await anext(mine)
        purged = await it.engine.purge("a")
        assert isinstance(await error_of(mine), TenantPurged)
        assert text_of(await events_of(other)) == "fine"
        assert (purged.ended_requests, purged.freed_cells > 0) == (1, True)


async def test_a_job_that_fails_tells_its_caller_and_the_engine_goes_on(tmp_path: Path) -> None:
    async with running() as it:
        with pytest.raises(AdapterFileError):
            await it.engine.load_adapter(LoadedAdapter("sha256:1", "a", "", "x", 1.0), tmp_path / "none.gguf")
        it.backend.faults.append(DecodeFailed("no"))
        with pytest.raises(DecodeFailed):
            await it.engine.publish(tuple(range(100)))
        assert await it.answer("say:x") == "x"


async def test_unloading_an_adapter_waits_for_its_requests(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"FAKE-ADAPTER 1")
    async with running() as it:
        adapter = LoadedAdapter("sha256:1", "a", "", "one", 1.0)
        adapter = await it.engine.load_adapter(adapter, tmp_path / "one.gguf")
        stream = it.engine.submit(Request((65,), Sampling(temperature=0), tenant="a", adapter=adapter))
        await anext(stream)
        unloading = [asyncio.create_task(it.engine.unload_adapter(adapter.digest)) for _ in range(2)]
        await it.engine.snapshot()
        assert not any(task.done() for task in unloading)
        it.engine.cancel(stream)
        await asyncio.wait_for(asyncio.gather(*unloading), PATIENCE_S)
        assert it.backend.adapters == 0


async def test_unloading_an_adapter_ends_with_the_engine(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"FAKE-ADAPTER 1")
    async with running(backend=FakeBackend(context_tokens=2_000, step_s=0.001)) as it:
        adapter = LoadedAdapter("sha256:1", "a", "", "one", 1.0)
        adapter = await it.engine.load_adapter(adapter, tmp_path / "one.gguf")
        stream = it.engine.submit(Request((65,), Sampling(temperature=0), tenant="a", adapter=adapter))
        await anext(stream)
        unloading = asyncio.create_task(it.engine.unload_adapter(adapter.digest))
        await it.engine.snapshot()
    await asyncio.wait_for(unloading, PATIENCE_S)
    assert isinstance(await error_of(stream), ShuttingDown)


# Ends.


async def test_stop_ends_what_runs_and_what_waits() -> None:
    async with running(backend=FakeBackend(slots=1)) as it:
        it.backend.pause()
        streams = [it.submit("on and on", tenant) for tenant in "aab"]
        await it.pause()
        stopping = asyncio.create_task(it.engine.stop())
        it.backend.resume()
        await stopping
        for stream in streams:
            assert isinstance(await error_of(stream), ShuttingDown)
        with pytest.raises(ShuttingDown):
            it.submit("late")
        with pytest.raises(ShuttingDown):
            await it.engine.snapshot()
        with pytest.raises(ShuttingDown):
            await it.engine.purge("a")
    assert it.usage.endings["on and on"] == [Ending.INTERRUPTED] * 3


class LateInbox(SimpleQueue[object]):
    """Takes a request only when the engine's thread has stopped and emptied it for the last time."""

    stop: Callable[[], None]

    def put(self, command: object, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(command, Submit):
            self.stop()
        super().put(command)


async def test_a_request_that_comes_while_the_engine_closes_is_not_left_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redoma_model.engine.engine.SimpleQueue", LateInbox)
    async with running() as it:
        inbox = it.engine._inbox
        assert isinstance(inbox, LateInbox)

        def stop() -> None:
            inbox.put(Stop())
            # Not for ever: an engine may well wait for what is being put.
            it.engine._thread.join(0.5)

        inbox.stop = stop
        try:
            stream = it.submit("say:x")
        except ShuttingDown:
            return
        assert isinstance(await asyncio.wait_for(error_of(stream), PATIENCE_S), ShuttingDown)


async def test_a_defect_ends_the_engine_and_every_request_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(stops=False) as it:
        streams = [it.submit("on and on", tenant) for tenant in "ab"]
        await anext(streams[0])

        def broken(*args: object) -> int:
            raise RuntimeError("a defect")

        monkeypatch.setattr(it.backend, "sample", broken)
        for stream in streams:
            assert isinstance(await error_of(stream), GenerationFailed)
        with pytest.raises(RuntimeError, match="a defect"):
            await asyncio.wait_for(it.engine.wait_ended(), PATIENCE_S)
        with pytest.raises(ShuttingDown):
            it.submit("late")


async def test_a_defect_that_hinders_freeing_ends_the_engine_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(stops=False) as it:
        streams = [it.submit("on and on", tenant) for tenant in "ab"]
        await anext(streams[0])

        def broken(*args: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(it.backend, "forget", broken)
        it.engine.cancel(streams[0])
        with pytest.raises(RuntimeError, match="a defect"):
            await asyncio.wait_for(it.engine.wait_ended(), PATIENCE_S)
        assert it.backend.closed
        assert isinstance(await asyncio.wait_for(error_of(streams[1]), PATIENCE_S), GenerationFailed)


async def test_what_leaks_is_noticed_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(stops=False) as it:
        stream = it.submit("on and on")
        await anext(stream)
        monkeypatch.setattr(it.backend, "forget", lambda *args: None)
        it.engine.cancel(stream)
        late = it.submit("say:x")
        with pytest.raises(RuntimeError, match=r"still has cells|leaked"):
            await asyncio.wait_for(it.engine.wait_ended(), PATIENCE_S)
        assert isinstance(await asyncio.wait_for(error_of(late), PATIENCE_S), GenerationFailed)


async def test_engines_of_one_process_take_turns() -> None:
    turn = Turnstile()
    busy: list[bool] = []

    class Watched(FakeBackend):
        def decode(self, chunks: object, lane: object) -> None:
            busy.append(turn._busy)
            super().decode(chunks, lane)  # type: ignore[arg-type]

    backends = [Watched(), Watched()]
    engines = [Engine(loader(one), limits(), SilentObserver(), CountingUsage(), turn) for one in backends]
    for engine in engines:
        engine.start()
        await asyncio.wait_for(engine.wait_loaded(), PATIENCE_S)
    streams = [engine.submit(Request((65,) * 5, Sampling(max_output_tokens=50))) for engine in engines]
    await asyncio.gather(*map(events_of, streams))
    assert busy
    assert all(busy)
    assert not turn._busy
    await asyncio.gather(*(engine.stop() for engine in engines))


# The stream by itself.


async def test_a_stream_merges_what_is_not_read() -> None:
    stream = Stream(max_undelivered_tokens=10)
    for number in range(1, 4):
        stream.deliver(Delta("x", "", number, 0))
    event = await anext(stream)
    assert isinstance(event, Delta)
    assert (event.text, event.output_tokens, event.tokens) == ("xxx", 3, 3)


async def test_a_stream_past_its_bound_fails() -> None:
    stream = Stream(max_undelivered_tokens=2)
    assert stream.deliver(Delta("x", "", 1, 0))
    assert stream.deliver(Delta("x", "", 2, 0))
    assert not stream.deliver(Delta("x", "", 3, 0))
    with pytest.raises(ReaderTooSlow, match="3 tokens"):
        await anext(stream)


async def test_a_stream_gives_what_came_before_its_error() -> None:
    stream = Stream(max_undelivered_tokens=10)
    stream.deliver(Delta("x", "", 1, 0))
    stream.deliver(GenerationFailed())
    stream.deliver(Delta("never", "", 2, 0))
    event = await anext(stream)
    assert isinstance(event, Delta)
    assert event.text == "x"
    with pytest.raises(GenerationFailed):
        await anext(stream)


async def test_a_closed_stream_ends_and_takes_nothing() -> None:
    stream = Stream(max_undelivered_tokens=1)
    stream.deliver(Delta("x", "", 1, 0))
    stream.close()
    assert stream.deliver(Delta("y", "", 9, 0))
    assert [event async for event in stream] == []
