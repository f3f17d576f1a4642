"""The engine driven directly, without gRPC, as the bench drives it."""

import asyncio

import pytest

from redoma_kit.errors import ShuttingDown
from redoma_model.engine.engine import Engine, EngineLimits
from redoma_model.engine.observer import SilentObserver
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.sequence import Request
from redoma_model.engine.stream import Delta, Done, FinishReason, Started, Stream
from redoma_model.errors import ReaderTooSlow
from tests.fakes.model_backend import FakeBackend, loader


async def test_engine_runs_without_a_server() -> None:
    backend = FakeBackend()
    engine = Engine(loader(backend), EngineLimits(), SilentObserver())
    engine.start()
    await engine.wait_loaded()
    prompt = tuple(backend.tokenize("say:hello", parse_special=False))

    events = [event async for event in engine.submit(Request(prompt, Sampling(temperature=0)))]

    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "hello"
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.output_tokens) == (FinishReason.STOP, 6)
    await engine.stop()
    assert backend.closed
    assert backend.samplers == 0


async def test_long_prompt_does_not_stall_a_running_stream() -> None:
    backend = FakeBackend(context_tokens=2_000, cells=4_000)
    engine = Engine(loader(backend), EngineLimits(step_tokens=32), SilentObserver())
    engine.start()
    await engine.wait_loaded()
    backend.pause()
    running = engine.submit(Request((65,) * 4, Sampling(max_output_tokens=200)))
    await asyncio.to_thread(backend.wait_paused)
    long = engine.submit(Request((66,) * 1_000, Sampling(max_output_tokens=1)))
    backend.resume()
    async for _ in running:
        pass
    async for _ in long:
        pass

    with_prompt = [step for step in backend.steps if any(count > 1 for _, count in step)][1:]
    assert len(with_prompt) >= 30
    for step in with_prompt:
        assert sum(count for _, count in step) <= 32
        assert any(count == 1 for _, count in step)
    await engine.stop()


async def test_stop_ends_what_runs() -> None:
    backend = FakeBackend()
    engine = Engine(loader(backend), EngineLimits(), SilentObserver())
    engine.start()
    await engine.wait_loaded()
    backend.pause()
    stream = engine.submit(Request((65,), Sampling()))
    await asyncio.to_thread(backend.wait_paused)
    stopping = asyncio.create_task(engine.stop())
    backend.resume()
    await stopping
    with pytest.raises(ShuttingDown):
        async for _ in stream:
            pass
    assert backend.samplers == 0


async def test_stream_merges_what_is_not_read() -> None:
    stream = Stream(max_undelivered_tokens=10)
    for number in range(1, 4):
        stream.deliver(Delta("x", "", number, 0))
    event = await anext(stream)
    assert isinstance(event, Delta)
    assert (event.text, event.output_tokens, event.tokens) == ("xxx", 3, 3)


async def test_stream_past_its_bound_fails() -> None:
    stream = Stream(max_undelivered_tokens=2)
    assert stream.deliver(Delta("x", "", 1, 0))
    assert stream.deliver(Delta("x", "", 2, 0))
    assert not stream.deliver(Delta("x", "", 3, 0))
    with pytest.raises(ReaderTooSlow, match="3 tokens"):
        await anext(stream)
