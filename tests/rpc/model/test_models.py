"""Several models in one process: found by id and alias, loaded and unloaded while others run, kept from who may not."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from redoma.common.v1 import usage_pb2
from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import model_pb2
from redoma_model.engine.backend import Backend, BackendLoader, Progress
from redoma_model.errors import ModelFileError
from tests.fakes.model_backend import PATIENCE_S, FakeBackend, loader
from tests.rpc.model.conftest import Serve, Service, conversation, read
from tests.rpc.model.test_generate import refused

DEFAULT = "smollm2-135m-instruct"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A model folder with three files in it and one beside it."""
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    for name in ("other.gguf", "sub/deep.gguf", "broken.gguf"):
        (folder / name).write_bytes(b"GGUF")
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    (folder / "link.gguf").symlink_to(tmp_path / "outside.gguf")
    return folder


@pytest.fixture
def other() -> FakeBackend:
    return FakeBackend(slots=2)


def broken(progress: Progress) -> Backend:
    raise ModelFileError("It is not a model.")


@pytest.fixture
async def two(serve: Serve, backend: FakeBackend, other: FakeBackend, models_dir: Path) -> AsyncIterator[Service]:
    """A service that has `other` besides its default model, and an alias of each."""
    others: dict[str, BackendLoader] = {"other.gguf": loader(other), "broken.gguf": broken, "deep.gguf": loader(other)}
    async with serve(
        loader(backend),
        others=others,
        models_dir=models_dir,
        models=[{"file": models_dir / "other.gguf", "slots": 2}],
        aliases={"first": DEFAULT, "second": "other"},
    ) as running:
        yield running


@pytest.fixture
async def one(serve: Serve, backend: FakeBackend, other: FakeBackend, models_dir: Path) -> AsyncIterator[Service]:
    """A service that can load `other`."""
    others: dict[str, BackendLoader] = {"other.gguf": loader(other), "broken.gguf": broken, "deep.gguf": loader(other)}
    async with serve(loader(backend), others=others, models_dir=models_dir) as running:
        yield running


async def load(service: Service, **fields: object) -> list[pb.LoadModelResponse]:
    request = pb.LoadModelRequest(**fields)  # type: ignore[arg-type]
    return [event async for event in service.engine.LoadModel(request, metadata=service.operator("LoadModel"))]


async def set_alias(service: Service, alias: str, model: str) -> None:
    request = pb.SetModelAliasRequest(alias=alias, model=model)
    await service.engine.SetModelAlias(request, metadata=service.operator("SetModelAlias"))


async def listed(service: Service, **claims: object) -> list[str]:
    answer = await service.stub.ListModels(model_pb2.ListModelsRequest(), metadata=service.metadata(**claims))
    return [model.id for model in answer.models]


async def model_of(service: Service, name: str, **claims: object) -> str:
    request = model_pb2.GetModelRequest(id=name)
    return (await service.stub.GetModel(request, metadata=service.metadata(**claims))).model.id


async def test_each_name_reaches_its_model(two: Service, backend: FakeBackend, other: FakeBackend) -> None:
    for name, model_id in (
        ("", DEFAULT),
        (DEFAULT, DEFAULT),
        ("first", DEFAULT),
        ("other", "other"),
        ("second", "other"),
    ):
        assert await model_of(two, name) == model_id
        answer = await read(two.generate("say:hi", model=name))
        assert (answer.started.model, answer.text) == (model_id, "hi")
    assert len(backend.prompts) == 3
    assert len(other.prompts) == 2
    assert await listed(two) == ["other", DEFAULT]


async def test_alias_does_not_lead_past_the_models_a_tenant_may_use(two: Service, other: FakeBackend) -> None:
    claims: dict[str, object] = {"models": [DEFAULT]}
    assert await listed(two, **claims) == [DEFAULT]
    for name in ("other", "second", "nothing"):
        code, info, _ = await refused(two.generate("x", model=name, claims=claims))
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert dict(info.metadata) == {"model": name, "available": DEFAULT}
    assert other.prompts == []
    # What an alias is called grants nothing: ids count.
    code, _, _ = await refused(two.generate("x", model="second", claims={"models": ["second"]}))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_model_is_loaded_with_progress_and_serves(one: Service, other: FakeBackend) -> None:
    code, _, _ = await refused(one.generate("x", model="tiny"))
    assert code is grpc.StatusCode.NOT_FOUND
    events = await load(one, file="sub/deep.gguf", id="tiny")
    assert [event.WhichOneof("event") for event in events][-1] == "model"
    progress = [event.progress for event in events[:-1]]
    assert progress == sorted(progress)
    assert events[-1].model.id == "tiny"
    assert (await read(one.generate("say:hi", model="tiny"))).text == "hi"
    assert len(other.prompts) == 1
    state = await one.engine.GetEngineState(pb.GetEngineStateRequest(), metadata=one.operator("GetEngineState"))
    assert [model.model.id for model in state.state.models] == [DEFAULT, "tiny"]


@pytest.mark.parametrize(
    ("fields", "code", "reason", "named"),
    [
        ({}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "../outside.gguf"}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "/etc/passwd"}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "link.gguf"}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "other.gguf\0"}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "."}, INVALID, "INVALID_FIELD", "file"),
        ({"file": "sub"}, INVALID, "MODEL_FILE_INVALID", "sub"),
        ({"file": "nothing.gguf"}, INVALID, "MODEL_FILE_INVALID", "nothing.gguf"),
        ({"file": "broken.gguf"}, INVALID, "MODEL_FILE_INVALID", "broken.gguf"),
        ({"file": "other.gguf", "id": "a b"}, INVALID, "INVALID_FIELD", "id"),
        ({"file": "other.gguf", "slots": 129}, INVALID, "INVALID_FIELD", "slots"),
        ({"file": "other.gguf", "slots": -1}, INVALID, "INVALID_FIELD", "slots"),
        ({"file": "other.gguf", "kv_cells": -1}, INVALID, "INVALID_FIELD", "kv_cells"),
        ({"file": "other.gguf", "context_tokens": 1}, INVALID, "INVALID_FIELD", "context_tokens"),
        ({"file": "other.gguf", "id": DEFAULT}, grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS", ""),
    ],
)
async def test_model_that_can_not_be_loaded_is_refused_and_others_go_on(
    one: Service, fields: dict[str, object], code: grpc.StatusCode, reason: str, named: str
) -> None:
    call = one.engine.LoadModel(pb.LoadModelRequest(**fields), metadata=one.operator("LoadModel"))  # type: ignore[arg-type]
    found, info, _ = await refused(call)
    assert (found, info.reason) == (code, reason)
    assert named in (info.metadata.get("field"), info.metadata.get("file"), "")
    assert (await read(one.generate("say:hi"))).text == "hi"
    assert await listed(one) == [DEFAULT]


async def test_service_without_a_model_folder_loads_none(fake_service: Service) -> None:
    request = pb.LoadModelRequest(file="other.gguf")
    code, info, _ = await refused(fake_service.engine.LoadModel(request, metadata=fake_service.operator("LoadModel")))
    assert (code, info.metadata["field"]) == (INVALID, "file")


async def test_loading_that_nobody_waits_for_is_given_up(serve: Serve, models_dir: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(progress: Progress) -> Backend:
        while progress(0.5):
            begun.set()
        ended.set()
        raise ModelFileError("Given up.")

    async with serve(loader(FakeBackend()), others={"other.gguf": endless}, models_dir=models_dir) as service:
        call = service.engine.LoadModel(pb.LoadModelRequest(file="other.gguf"), metadata=service.operator("LoadModel"))
        assert (await call.read()).HasField("progress")
        again = pb.LoadModelRequest(file="other.gguf")
        code, _, _ = await refused(service.engine.LoadModel(again, metadata=service.operator("LoadModel")))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        call.cancel()
        assert await asyncio.to_thread(ended.wait, PATIENCE_S)


async def test_unloaded_model_lets_its_streams_end(two: Service, other: FakeBackend) -> None:
    other.pause()
    call = two.generate("Go on.", model="second", sampling={"max_output_tokens": 5, "ignore_eos": True})
    await asyncio.to_thread(other.wait_paused)
    request = pb.UnloadModelRequest(id="other")
    unloading = two.engine.UnloadModel(request, metadata=two.operator("UnloadModel"), timeout=60)
    await until_gone(two, "other")
    code, _, _ = await refused(two.generate("x", model="second"))
    assert code is grpc.StatusCode.NOT_FOUND
    # Its memory is not free yet.
    code, _, _ = await refused(
        two.engine.LoadModel(pb.LoadModelRequest(file="other.gguf"), metadata=two.operator("LoadModel"))
    )
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert not other.closed
    other.resume()
    answer = await read(call)
    assert answer.done.usage.output_tokens == 5
    await unloading
    assert other.closed
    assert (await read(two.generate("say:hi"))).text == "hi"


async def test_unloading_ends_what_goes_on_too_long(serve: Serve, models_dir: Path) -> None:
    slow = FakeBackend(context_tokens=100_000, cells=100_000, step_s=0.01)
    models = [{"file": models_dir / "other.gguf"}]
    async with serve(loader(FakeBackend()), others={"other.gguf": loader(slow)}, models=models) as service:
        call = service.generate("Go on.", model="other", sampling={"ignore_eos": True})
        assert (await call.read()).HasField("started")  # type: ignore[union-attr]
        request = pb.UnloadModelRequest(id="other")
        await service.engine.UnloadModel(request, metadata=service.operator("UnloadModel"), timeout=2.1)
        assert slow.closed
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_operator_who_leaves_lets_the_unloading_go_on(two: Service, other: FakeBackend) -> None:
    other.pause()
    call = two.generate("Go on.", model="other", sampling={"max_output_tokens": 5, "ignore_eos": True})
    await asyncio.to_thread(other.wait_paused)
    request = pb.UnloadModelRequest(id="other")
    unloading = two.engine.UnloadModel(request, metadata=two.operator("UnloadModel"), timeout=60)
    await until_gone(two, "other")
    unloading.cancel()
    other.resume()
    assert (await read(call)).done.usage.output_tokens == 5
    async with asyncio.timeout(PATIENCE_S):
        while not other.closed:  # noqa: ASYNC110 - the backend tells nobody that it is closed
            await asyncio.sleep(0.001)


async def until_gone(service: Service, model_id: str) -> None:
    """Waits until a model is out of service."""
    async with asyncio.timeout(PATIENCE_S):
        while model_id in await listed(service):
            pass


async def test_purge_reaches_a_model_that_is_being_unloaded(two: Service, other: FakeBackend) -> None:
    other.pause()
    call = two.generate("Go on.", model="other", sampling={"ignore_eos": True})
    await asyncio.to_thread(other.wait_paused)
    request = pb.UnloadModelRequest(id="other")
    unloading = two.engine.UnloadModel(request, metadata=two.operator("UnloadModel"), timeout=60)
    await until_gone(two, "other")
    purge = pb.PurgeTenantRequest(tenant="acme")
    purging = asyncio.ensure_future(two.engine.PurgeTenant(purge, metadata=two.operator("PurgeTenant")))
    async with asyncio.timeout(PATIENCE_S):
        while two.server.grpc.drain.running < 3:  # noqa: ASYNC110 - the drain tells nobody of a call's start
            await asyncio.sleep(0.001)
    other.resume()
    assert (await purging).ended_requests == 1
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "TENANT_PURGED")
    await unloading


async def test_default_model_stays(two: Service) -> None:
    call = two.engine.UnloadModel(pb.UnloadModelRequest(id=DEFAULT), metadata=two.operator("UnloadModel"))
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
    call = two.engine.UnloadModel(pb.UnloadModelRequest(id="second"), metadata=two.operator("UnloadModel"))
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_aliases_move_and_go(two: Service) -> None:
    await set_alias(two, "gpt-4o", "other")
    assert await model_of(two, "gpt-4o") == "other"
    await set_alias(two, "gpt-4o", DEFAULT)
    assert await model_of(two, "gpt-4o") == DEFAULT
    request = pb.DeleteModelAliasRequest(alias="gpt-4o")
    await two.engine.DeleteModelAlias(request, metadata=two.operator("DeleteModelAlias"))
    again = two.engine.DeleteModelAlias(request, metadata=two.operator("DeleteModelAlias"))
    code, info, _ = await refused(again)
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert (await refused(two.stub.GetModel(model_pb2.GetModelRequest(id="gpt-4o"), metadata=two.metadata())))[
        0
    ] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("alias", "model", "reason"),
    [
        ("other", DEFAULT, "RESOURCE_EXISTS"),
        ("x", "second", "MODEL_NOT_FOUND"),
        ("", "other", "INVALID_FIELD"),
        ("a b", "other", "INVALID_FIELD"),
        ("x" * 129, "other", "INVALID_FIELD"),
        ("x", "", "INVALID_FIELD"),
    ],
)
async def test_alias_that_can_not_be_is_refused(two: Service, alias: str, model: str, reason: str) -> None:
    request = pb.SetModelAliasRequest(alias=alias, model=model)
    _, info, _ = await refused(two.engine.SetModelAlias(request, metadata=two.operator("SetModelAlias")))
    assert info.reason == reason


async def test_model_is_not_loaded_over_an_alias(two: Service) -> None:
    request = pb.LoadModelRequest(file="sub/deep.gguf", id="second")
    code, _, _ = await refused(two.engine.LoadModel(request, metadata=two.operator("LoadModel")))
    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_engine_of_another_model_that_dies_ends_the_process(two: Service, other: FakeBackend) -> None:
    other.faults.append(ZeroDivisionError("a defect"))  # type: ignore[arg-type]
    await refused(two.generate("x", model="other"))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE_S):
            await two.server.models.wait_failed()


def every_call(service: Service, **claims: object) -> list[object]:
    """Begins each call of ModelService."""
    metadata = service.metadata(**claims)
    messages = conversation("say:hi")
    stub = service.stub
    return [
        stub.Generate(model_pb2.GenerateRequest(messages=messages), metadata=metadata),
        stub.CountTokens(model_pb2.CountTokensRequest(messages=messages), metadata=metadata),
        stub.Embed(model_pb2.EmbedRequest(inputs=[model_pb2.EmbedInput(text="x")]), metadata=metadata),
        stub.ListModels(model_pb2.ListModelsRequest(), metadata=metadata),
        stub.GetModel(model_pb2.GetModelRequest(), metadata=metadata),
    ]


async def test_dedicated_process_serves_its_tenant_alone(serve: Serve, backend: FakeBackend) -> None:
    async with serve(loader(backend), dedicated_tenant="acme") as service:
        for claims in ({"tenant": "globex"}, {"tenant": "globex", "isolation": "DEDICATED"}, {"tenant": ""}):
            for call in every_call(service, **claims):
                code, info, _ = await refused(call)  # type: ignore[arg-type]
                assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_DEDICATED")
        assert backend.prompts == []
        for isolation in ("SHARED", "DEDICATED"):
            answer = await read(service.generate("say:hi", claims={"isolation": isolation}))
            assert answer.done.finish_reason == usage_pb2.FINISH_REASON_STOP


async def test_dedicated_tenant_is_never_served_by_a_shared_process(
    fake_service: Service, backend: FakeBackend
) -> None:
    for call in every_call(fake_service, isolation="DEDICATED"):
        code, info, _ = await refused(call)  # type: ignore[arg-type]
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_PROVISIONED")
        assert info.metadata["tenant"] == "acme"
    for call in every_call(fake_service, isolation="SOMETHING"):
        code, info, _ = await refused(call)  # type: ignore[arg-type]
        assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert backend.prompts == []
