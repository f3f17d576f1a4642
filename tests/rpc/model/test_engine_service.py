"""EngineService: for operators alone, what it shows, and what it does to a tenant's requests."""

import asyncio
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma.common.v1 import usage_pb2
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import model_pb2
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from tests.fakes.model_backend import PATIENCE_S, FakeBackend, loader
from tests.rpc.model.conftest import Serve, Service, conversation, read
from tests.rpc.model.test_generate import refused
from tests.rpc.model.test_hazards import idle

METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["EngineService"].methods]
ENDLESS = {"ignore_eos": True}


async def state_of(service: Service) -> pb.EngineState:
    request = pb.GetEngineStateRequest()
    return (await service.engine.GetEngineState(request, metadata=service.operator("GetEngineState"))).state


async def records_of(service: Service, **fields: object) -> pb.ListUsageRecordsResponse:
    request = pb.ListUsageRecordsRequest(**fields)  # type: ignore[arg-type]
    return await service.engine.ListUsageRecords(request, metadata=service.operator("ListUsageRecords"))


async def ended(service: Service, token_id: str) -> pb.UsageRecord:
    """Waits until the requests of a `jti` have ended, and gives their record."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = (await records_of(service, token_ids=[token_id])).records
            if found and found[0].HasField("end_time"):
                return found[0]


def begin(stub: EngineServiceStub, method: str, metadata: tuple[tuple[str, str], ...]) -> object:
    return getattr(stub, method)(getattr(pb, f"{method}Request")(), metadata=metadata)


@pytest.mark.parametrize("method", METHODS)
async def test_every_call_is_for_platform_operators_by_the_edge(fake_service: Service, method: str) -> None:
    for claims, reason in (
        ({"scopes": ["generate", "conversations"]}, "SCOPE_MISSING"),
        ({"scopes": ["tenant.admin"], "tenant": "acme"}, "SCOPE_MISSING"),
        ({"method": "/redoma.chat.v1.ChatService/SendMessage"}, "CREDENTIAL_INVALID"),
        ({"method": ""}, "CREDENTIAL_INVALID"),
        ({"aud": ["tenant"]}, "CREDENTIAL_INVALID"),
    ):
        _, info, _ = await refused(begin(fake_service.engine, method, fake_service.operator(method, **claims)))
        assert info.reason == reason, claims
    by_chat = EngineServiceStub(fake_service.channel)
    _, info, _ = await refused(begin(by_chat, method, fake_service.operator(method)))
    assert info.reason == "METHOD_DENIED"


async def test_the_tenant_service_may_read_the_journal_and_purge_and_no_more(fake_service: Service) -> None:
    target = UpstreamSettings(target=f"127.0.0.1:{fake_service.server.grpc.port}", server_name="model.private.redoma")
    async with open_channel(target, fake_service.pki.tls("public", "tenant"), 1 << 20) as channel:
        stub = EngineServiceStub(channel)
        await stub.ListUsageRecords(pb.ListUsageRecordsRequest(), metadata=fake_service.operator("ListUsageRecords"))
        purge = pb.PurgeTenantRequest(tenant="acme")
        await stub.PurgeTenant(purge, metadata=fake_service.operator("PurgeTenant"))
        for method in set(METHODS) - {"ListUsageRecords", "PurgeTenant"}:
            _, info, _ = await refused(begin(stub, method, fake_service.operator(method)))
            assert info.reason == "METHOD_DENIED", method


async def test_state_tells_who_gets_what(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    calls = [
        fake_service.generate("x", sampling={"max_output_tokens": 3, **ENDLESS}, claims={"tenant": tenant, "weight": 7})
        for tenant in ("acme", "acme", "globex")
    ]
    await asyncio.to_thread(backend.wait_paused)
    backend.resume()
    answers = await asyncio.gather(*map(read, calls))
    state = await state_of(fake_service)
    (model,) = state.models
    assert model.model.id == "smollm2-135m-instruct"
    assert (model.running, model.waiting, model.preempted) == (0, 0, 0)
    assert model.cells == 2_048
    assert model.output_tokens == 9
    assert model.steps >= 3
    assert 0 < model.step_median_s <= model.step_max_s
    assert {tenant.tenant: (tenant.weight, tenant.output_tokens) for tenant in model.tenants} == {
        "acme": (7, 6),
        "globex": (7, 3),
    }
    given = sum(answer.started.input_tokens for answer in answers)
    assert sum(tenant.input_tokens for tenant in model.tenants) == given
    assert state.take_time.seconds > 0


async def test_watch_sends_at_once_and_again(fake_service: Service) -> None:
    interval = Duration()
    interval.FromMilliseconds(100)
    call = fake_service.engine.WatchEngine(
        pb.WatchEngineRequest(interval=interval), metadata=fake_service.operator("WatchEngine")
    )
    moments = []
    async for event in call:
        moments.append(event.state.take_time.ToNanoseconds())
        if len(moments) == 3:
            break
    call.cancel()
    assert moments[1] - moments[0] >= 100e6
    assert moments == sorted(moments)


@pytest.mark.parametrize("milliseconds", [0, 99, 60_001, -1])
async def test_watch_refuses_an_interval_out_of_range(fake_service: Service, milliseconds: int) -> None:
    interval = Duration()
    interval.FromMilliseconds(milliseconds)
    request = pb.WatchEngineRequest(interval=interval)
    code, info, _ = await refused(
        fake_service.engine.WatchEngine(request, metadata=fake_service.operator("WatchEngine"))
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "interval")


async def test_watch_does_not_keep_a_service_that_shuts_down(fake_service: Service) -> None:
    call = fake_service.engine.WatchEngine(
        pb.WatchEngineRequest(interval=Duration(seconds=60)), metadata=fake_service.operator("WatchEngine")
    )
    await call.read()
    async with asyncio.timeout(PATIENCE_S / 2):
        await fake_service.server.grpc.stop(10 * PATIENCE_S)
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call.read()
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_operators_are_told_while_the_model_loads(serve: Serve, gate: threading.Event) -> None:
    async with serve(loader(FakeBackend(), gate), ready=False) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        request = health_pb2.HealthCheckRequest(service="redoma.model.v1.EngineService")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        call = service.engine.GetEngineState(pb.GetEngineStateRequest(), metadata=service.operator("GetEngineState"))
        code, info, _ = await refused(call)
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
        gate.set()


async def test_purge_ends_a_tenants_requests_and_frees_what_is_held(serve: Serve) -> None:
    # So large that no answer comes to its end before the purge.
    backend = FakeBackend(context_tokens=50_000, cells=100_000)
    async with serve(loader(backend), speculation=False, idle_prefix_cells=100_000) as service:
        await read(service.generate("say:a long enough text to be kept for later", claims={"tenant": "acme"}))
        await read(service.generate("say:another tenants text to be kept for later", claims={"tenant": "globex"}))
        await idle(service)
        kept = {tenant.tenant: tenant.cached_cells for tenant in (await state_of(service)).models[0].tenants}
        assert kept["acme"] and kept["globex"]
        backend.pause()
        acme = service.generate("x", sampling=ENDLESS, claims={"tenant": "acme", "jti": "purged"})
        globex = service.generate("say:hi", claims={"tenant": "globex"})
        for call in (acme, globex):
            # It comes when the engine has the request.
            await call.initial_metadata()
        await asyncio.to_thread(backend.wait_paused)
        request = pb.PurgeTenantRequest(tenant="acme")
        purging = service.engine.PurgeTenant(request, metadata=service.operator("PurgeTenant"))
        await purging_arrived(service)
        backend.resume()
        purged = await purging
        code, info, _ = await refused(acme)
        assert (code, info.reason) == (grpc.StatusCode.ABORTED, "TENANT_PURGED")
        assert purged.ended_requests == 1
        assert purged.freed_cells >= kept["acme"]
        assert (await read(globex)).text == "hi"
        left = {tenant.tenant: tenant.used_cells for tenant in (await state_of(service)).models[0].tenants}
        assert left.get("acme", 0) == 0
        assert left["globex"] >= kept["globex"]
        record = await ended(service, "purged")
        assert record.finish_reason == usage_pb2.FINISH_REASON_INTERRUPTED


async def purging_arrived(service: Service) -> None:
    """Waits until the service handles three calls: two streams and the purge."""
    async with asyncio.timeout(PATIENCE_S):
        while service.server.grpc.drain.running < 3:  # noqa: ASYNC110 - the drain tells nobody of a call's start
            await asyncio.sleep(0.001)


async def test_purge_needs_a_tenant_and_takes_one_it_never_saw(fake_service: Service) -> None:
    for tenant in ("", "x" * 129):
        request = pb.PurgeTenantRequest(tenant=tenant)
        call = fake_service.engine.PurgeTenant(request, metadata=fake_service.operator("PurgeTenant"))
        code, info, _ = await refused(call)
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "tenant")
    request = pb.PurgeTenantRequest(tenant="nobody")
    purged = await fake_service.engine.PurgeTenant(request, metadata=fake_service.operator("PurgeTenant"))
    assert (purged.ended_requests, purged.freed_cells, purged.freed_host_bytes) == (0, 0, 0)


async def test_record_holds_what_the_answer_said_it_cost(fake_service: Service) -> None:
    answer = await read(fake_service.generate("say:hello", claims={"jti": "one"}))
    record = await ended(fake_service, "one")
    assert record.usage == answer.done.usage
    assert (record.tenant, record.model, record.adapter) == ("acme", "smollm2-135m-instruct", "")
    assert record.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert record.start_time.ToNanoseconds() <= record.end_time.ToNanoseconds()
    await read(fake_service.generate("x", sampling={"max_output_tokens": 2}, claims={"jti": "two"}))
    assert (await ended(fake_service, "two")).finish_reason == usage_pb2.FINISH_REASON_LENGTH


async def test_record_of_a_caller_who_left_counts_what_was_generated(
    fake_service: Service, backend: FakeBackend
) -> None:
    call = fake_service.generate("x", sampling=ENDLESS, claims={"jti": "left"})
    assert (await call.read()).HasField("started")  # type: ignore[union-attr]
    last = await call.read()
    assert isinstance(last, model_pb2.GenerateResponse)
    call.cancel()
    record = await ended(fake_service, "left")
    assert record.finish_reason == usage_pb2.FINISH_REASON_CANCELLED
    assert record.usage.output_tokens >= last.delta.usage.output_tokens
    assert record.usage.input_tokens == last.delta.usage.input_tokens


async def test_inputs_of_one_embed_call_are_one_record(fake_service: Service) -> None:
    request = model_pb2.EmbedRequest(inputs=[model_pb2.EmbedInput(text=text) for text in ("abc", "de", "f")])
    answer = await fake_service.stub.Embed(request, metadata=fake_service.metadata(jti="many"))
    record = await ended(fake_service, "many")
    assert record.usage.input_tokens == answer.usage.input_tokens == 6
    assert record.usage.output_tokens == 0


async def test_records_are_paged_latest_first_by_tenant_and_bounded(serve: Serve) -> None:
    async with serve(loader(FakeBackend()), usage_records=8) as service:
        for number in range(10):
            tenant = "acme" if number % 2 else "globex"
            await read(service.generate("say:x", claims={"jti": f"n{number}", "tenant": tenant}))
        seen: list[str] = []
        token = ""
        while True:
            page = await records_of(service, page_size=3, page_token=token)
            assert len(page.records) <= 3
            seen += [record.token_id for record in page.records]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"n{number}" for number in range(9, 1, -1)]
        acme = await records_of(service, tenant="acme")
        assert [record.token_id for record in acme.records] == ["n9", "n7", "n5", "n3"]
        assert not acme.next_page_token
        named = await records_of(service, token_ids=["n3", "n0", "n8"])
        assert [record.token_id for record in named.records] == ["n8", "n3"]
        token = (await records_of(service, page_size=1)).next_page_token
        for fields in ({"page_token": token, "tenant": "acme"}, {"page_token": "x"}, {"page_size": -1}):
            call = service.engine.ListUsageRecords(
                pb.ListUsageRecordsRequest(**fields),  # type: ignore[arg-type]
                metadata=service.operator("ListUsageRecords"),
            )
            code, _, _ = await refused(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        call = service.engine.ListUsageRecords(
            pb.ListUsageRecordsRequest(token_ids=["x"] * 1_001), metadata=service.operator("ListUsageRecords")
        )
        code, info, _ = await refused(call)
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "token_ids")


async def test_answers_and_prompts_are_in_nothing_an_operator_sees(fake_service: Service) -> None:
    await read(fake_service.generate("say:qsecretq", claims={"jti": "one"}))
    state, records = await state_of(fake_service), await records_of(fake_service)
    for message in (state, records):
        assert b"qsecretq" not in message.SerializeToString()


async def test_edge_may_not_call_the_model_service(fake_service: Service) -> None:
    target = UpstreamSettings(target=f"127.0.0.1:{fake_service.server.grpc.port}", server_name="model.private.redoma")
    service = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
    async with open_channel(target, fake_service.pki.tls("public", "edge"), 1 << 20) as channel:
        for method in service.methods:
            call = channel.unary_unary(f"/{service.full_name}/{method.name}")
            metadata = fake_service.metadata(scopes=["generate", "platform.admin"])
            _, info, _ = await refused(call(b"", metadata=metadata))
            assert info.reason == "METHOD_DENIED", method.name


async def test_form_of_an_answer_reaches_the_sampler(fake_service: Service) -> None:
    sampling = SamplingOptions(response_format={"json_schema": '{"const": {"a": 1}}'})
    call = fake_service.stub.Generate(
        model_pb2.GenerateRequest(messages=conversation("x"), sampling=sampling), metadata=fake_service.metadata()
    )
    assert (await read(call)).text == '{"a": 1}'  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"response_format": {}}, "sampling.response_format"),
        ({"response_format": {"json_object": False}}, "sampling.response_format.json_object"),
        ({"response_format": {"grammar": "nonsense"}}, "sampling.response_format.grammar"),
        (
            {"response_format": {"json_schema": '{"properties": {"age": {"type": "intger"}}}'}},
            "sampling.response_format.json_schema.properties.age.type",
        ),
        ({"response_format": {"json_schema": "{}"}, "ignore_eos": True}, "sampling.response_format"),
    ],
)
async def test_form_that_is_none_names_its_field(
    fake_service: Service, backend: FakeBackend, sampling: dict[str, object], field: str
) -> None:
    code, info, _ = await refused(fake_service.generate("x", sampling=sampling))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert info.metadata["field"] == field
    assert backend.prompts == []
