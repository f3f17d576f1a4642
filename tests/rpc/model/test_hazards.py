"""What can go wrong around a stream, each on the fake backend, whose steps the test holds."""

import asyncio
import threading

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma.model.v1 import engine_pb2
from redoma.model.v1 import model_pb2 as pb
from redoma.model.v1.model_pb2_grpc import ModelServiceStub
from redoma_kit.channel import open_channel
from redoma_kit.errors import DomainError
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.backend import DecodeFailed
from redoma_model.engine.engine import EngineState
from redoma_model.engine.template import Message, Role
from redoma_model.errors import MODEL_ERRORS, EngineStalled, ModelFileError
from redoma_model.policy import MODEL_POLICY
from redoma_model.served import Caller
from redoma_model.server import ModelServer
from tests.conftest import TestPki
from tests.fakes.model_backend import FakeBackend, loader
from tests.rpc.model.conftest import Serve, Service, conversation, model_settings, read
from tests.rpc.model.test_generate import refused

ENDLESS = {"sampling": {"ignore_eos": True}}
SLOTS = 4


async def idle(service: Service) -> None:
    """Waits until the engine has nothing left, and checks that nothing leaked."""
    async with asyncio.timeout(60):
        while (snapshot := await service.server.engine.snapshot()).running or snapshot.waiting:
            pass
    assert snapshot.used_cells == snapshot.cached_cells
    assert snapshot.free_slots == SLOTS


async def no_call_left(service: Service) -> None:
    """Waits until the server handles no call."""
    async with asyncio.timeout(60):
        while service.server.grpc.drain.running:  # noqa: ASYNC110 - the drain tells nobody else when it is idle
            await asyncio.sleep(0.001)


async def test_cancel_frees_slot_within_one_step(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    call = fake_service.generate("On.", **ENDLESS)
    await asyncio.to_thread(backend.wait_paused)
    generated = len(backend.steps)

    call.cancel()
    # The handler has seen the cancellation when the server has no call left; the step is still held.
    await no_call_left(fake_service)
    backend.resume()

    await idle(fake_service)
    assert len(backend.steps) == generated + 1
    assert backend.samplers == 0
    assert backend.held_cells == (await fake_service.server.engine.snapshot()).cached_cells


async def test_caller_deadline_ends_the_stream_and_frees_the_slot(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    request = pb.GenerateRequest(messages=conversation("On and on."))
    call = fake_service.stub.Generate(request, metadata=fake_service.metadata(), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await no_call_left(fake_service)
    backend.resume()
    await idle(fake_service)
    assert len(backend.steps) <= 1


async def test_queue_full_is_refused_at_once_with_retry_info(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    calls = [fake_service.generate("On.", **ENDLESS) for _ in range(6)]
    for call in calls:
        await call.initial_metadata()

    code, info, retry = await refused(fake_service.generate("One too many."))

    assert (code, info.reason, info.metadata["waiting"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "2")
    assert retry
    backend.resume()
    for call in calls:
        call.cancel()
    await idle(fake_service)


async def test_waiting_request_that_is_cancelled_never_runs(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    calls = [fake_service.generate("On.", **ENDLESS) for _ in range(5)]
    for call in calls:
        await call.initial_metadata()
    for call in reversed(calls):
        call.cancel()
    await no_call_left(fake_service)
    backend.resume()
    await idle(fake_service)
    assert len(backend.prompts) <= 4


async def test_reader_too_slow_ends_with_a_status_and_frees_the_slot(serve: Serve) -> None:
    backend = FakeBackend(context_tokens=200_000, cells=200_000)
    async with serve(loader(backend), max_undelivered_tokens=64, speculation=False) as service:
        # 20 logprobs a token fill the transport's windows soon; nobody reads.
        call = service.generate("On.", sampling={"ignore_eos": True, "logprobs": True, "top_logprobs": 20})
        await call.initial_metadata()
        await no_call_left(service)
        assert len(backend.steps) > 64
        assert (await service.server.engine.snapshot()).free_slots == SLOTS
        code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")


async def test_status_for_a_peer_that_never_reads_does_not_hold_its_call_forever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_kit.interceptors.errors.ABORT_WAIT_S", 0.1)
    backend = FakeBackend(context_tokens=200_000, cells=200_000)
    async with serve(loader(backend), max_undelivered_tokens=64) as service:
        call = service.generate("On.", sampling={"ignore_eos": True, "logprobs": True, "top_logprobs": 20})
        await call.initial_metadata()
        await idle(service)
        labels = {"method": "/redoma.model.v1.ModelService/Generate"}
        async with asyncio.timeout(60):
            # The gauge counts a call until its status is out, which is after the drain has forgotten it.
            while service.telemetry.registry.get_sample_value("redoma_calls_running", labels):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        call.cancel()


async def test_lagging_reader_gets_several_tokens_in_one_delta(fake_service: Service) -> None:
    generation = await fake_service.server.model.generate(
        [Message(Role.USER, "On.")], {"max_output_tokens": 30, "ignore_eos": True}, False, False, Caller("acme")
    )
    await idle(fake_service)
    events = [event async for event in generation.stream]
    assert [type(event).__name__ for event in events] == ["Started", "Delta", "Done"]
    assert events[1].tokens == 30  # type: ignore[union-attr]
    assert len(events[1].text) == 30  # type: ignore[union-attr]


async def test_bad_logits_end_that_request_only(fake_service: Service, backend: FakeBackend) -> None:
    good = await read(fake_service.generate("say:good"))
    prompt = backend.prompts[0]
    backend.bad_prompt = tuple(prompt)
    other, bad = await asyncio.gather(
        read(fake_service.generate("say:other")), refused(fake_service.generate("say:good"))
    )

    assert (good.text, other.text) == ("good", "other")
    assert (bad[0], bad[1].reason) == (grpc.StatusCode.INTERNAL, "GENERATION_FAILED")
    await idle(fake_service)


async def test_failed_decode_ends_its_requests_and_the_engine_goes_on(
    fake_service: Service, backend: FakeBackend
) -> None:
    backend.faults.append(DecodeFailed("out of order"))
    code, info, _ = await refused(fake_service.generate("say:never"))
    assert (code, info.reason) == (grpc.StatusCode.INTERNAL, "GENERATION_FAILED")
    assert (await read(fake_service.generate("say:again"))).text == "again"
    await idle(fake_service)


async def test_cells_run_out_and_every_request_still_ends_complete(serve: Serve) -> None:
    backend = FakeBackend(context_tokens=256, slots=4, cells=512)
    # Without drafts all four grow in step: with them some may end before the cells run out.
    async with serve(loader(backend), headroom_tokens=8, speculation=False) as service:
        backend.pause()
        calls = [service.generate(f"Go {n}.", sampling={"max_output_tokens": 150}) for n in range(4)]
        for call in calls:
            # It comes when the engine has the request.
            await call.initial_metadata()
        backend.resume()
        answers = await asyncio.gather(*map(read, calls))
        assert len({answer.text for answer in answers}) == 1
        assert all(answer.done.usage.output_tokens == 150 for answer in answers)
        await idle(service)
        assert (await service.server.engine.snapshot()).preemptions > 0


async def test_calls_before_the_model_is_loaded_are_told_so(serve: Serve, gate: threading.Event) -> None:
    async with serve(loader(FakeBackend(), gate), ready=False) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        before = await health.Check(health_pb2.HealthCheckRequest())
        assert before.status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, info, retry = await refused(service.generate("x"))
        assert (code, info.reason, retry) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING", True)

        gate.set()
        await service.server.become_ready()

        after = await health.Check(health_pb2.HealthCheckRequest())
        assert after.status == health_pb2.HealthCheckResponse.SERVING
        assert (await read(service.generate("say:now"))).text == "now"


async def test_model_that_can_not_be_loaded_is_an_error(serve: Serve) -> None:
    def fail(progress: object) -> FakeBackend:
        raise ModelFileError("broken")

    async with serve(fail, ready=False) as service:
        with pytest.raises(ModelFileError):
            await service.server.become_ready()


async def test_engine_that_dies_ends_streams_and_says_so(fake_service: Service, backend: FakeBackend) -> None:
    backend.faults.append(ZeroDivisionError("a defect"))
    code, info, _ = await refused(fake_service.generate("x"))
    assert (code, info.reason) == (grpc.StatusCode.INTERNAL, "GENERATION_FAILED")
    with pytest.raises(ZeroDivisionError):
        await fake_service.server.engine.wait_ended()
    assert backend.closed


async def test_engine_that_hangs_in_a_step_says_so_and_ends_the_service(
    pki: TestPki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_model.engine.engine.SNAPSHOT_PATIENCE_S", 0.05)
    monkeypatch.setattr("redoma_model.engine.engine.WATCH_EVERY_S", 0.05)
    backend = FakeBackend()
    settings = model_settings(pki, max_step_s=1.0)
    telemetry = Telemetry("model", settings.metrics, settings.tracing)
    server = ModelServer(settings, lambda _: loader(backend), telemetry, structlog.get_logger("test"))
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(60):
            while server.engine.state is not EngineState.READY:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await server.model.load()
        backend.pause()
        generation = await server.model.generate([Message(Role.USER, "x")], {}, False, False, Caller("acme"))
        await asyncio.to_thread(backend.wait_paused)
        with pytest.raises(EngineStalled):
            await server.engine.snapshot()
        with pytest.raises(EngineStalled):
            await running
    finally:
        server.engine.cancel(generation.stream)
        backend.resume()
        await server.grpc.stop(0)
        await server.close()


async def test_service_whose_engine_dies_ends_with_the_cause(pki: TestPki) -> None:
    backend = FakeBackend()
    settings = model_settings(pki)
    telemetry = Telemetry("model", settings.metrics, settings.tracing)
    server = ModelServer(settings, lambda _: loader(backend), telemetry, structlog.get_logger("test"))
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    while not running.done():
        try:
            backend.faults.append(ZeroDivisionError("a defect"))
            generation = await server.model.generate([Message(Role.USER, "x")], {}, False, False, Caller("acme"))
            async for _ in generation.stream:
                pass
        except DomainError:
            await asyncio.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        await running


async def test_stop_while_loading_ends_cleanly(pki: TestPki, gate: threading.Event) -> None:
    settings = model_settings(pki)
    telemetry = Telemetry("model", settings.metrics, settings.tracing)
    server = ModelServer(settings, lambda _: loader(FakeBackend(), gate), telemetry, structlog.get_logger("test"))
    running = asyncio.create_task(server.run())
    server.grpc.request_stop()
    gate.set()
    async with asyncio.timeout(60):
        await running


async def test_emoji_and_stop_string_across_tokens(fake_service: Service) -> None:
    answer = await read(fake_service.generate("say:a🌊b END c", sampling={"stop": ["END"]}))
    assert answer.text == "a🌊b "
    assert all("�" not in delta.text for delta in answer.deltas)
    assert answer.done.usage.output_tokens == len("a🌊b END".encode())


async def test_only_chat_may_call(fake_service: Service) -> None:
    target = UpstreamSettings(target=f"127.0.0.1:{fake_service.server.grpc.port}", server_name="model.private.redoma")
    async with open_channel(target, fake_service.pki.tls("public", "edge"), 1 << 20) as channel:
        stub = ModelServiceStub(channel)
        code, info, _ = await refused(stub.GetModel(pb.GetModelRequest(), metadata=fake_service.metadata()))
    assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")


async def test_identity_is_needed(fake_service: Service) -> None:
    request = pb.GenerateRequest(messages=conversation("x"))
    code, info, _ = await refused(fake_service.stub.Generate(request))
    assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


def test_every_rpc_has_a_policy_row() -> None:
    services = [pb.DESCRIPTOR.services_by_name["ModelService"], engine_pb2.DESCRIPTOR.services_by_name["EngineService"]]
    assert set(MODEL_POLICY) == {
        f"/{service.full_name}/{method.name}" for service in services for method in service.methods
    }


def test_every_error_has_a_rule() -> None:
    import redoma_model.errors as errors

    domain = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, DomainError) and value.__module__ == errors.__name__
    }
    assert domain == set(MODEL_ERRORS)
