"""LoRA adapters: bound to the identity's tenant, never replaced by the base model, loaded and unloaded at run time."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import model_pb2
from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.template import Message, Role
from redoma_model.errors import AdapterNotFound
from redoma_model.served import Caller
from tests.fakes.model_backend import ADAPTER_MAGIC, ALPHABET, PATIENCE_S, FakeAdapter, FakeBackend, loader
from tests.rpc.model.conftest import Serve, Service, read
from tests.rpc.model.test_generate import refused
from tests.rpc.model.test_models import every_call

SHORT = {"max_output_tokens": 4, "temperature": 0.0}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


BASE = b"the base model"
ACME, GLOBEX = ADAPTER_MAGIC + b"3", ADAPTER_MAGIC + b"7"
Write = Callable[..., str]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The base model's file, which the fake backend does not read."""
    file = tmp_path / "base.gguf"
    file.write_bytes(BASE)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapters"
    made.mkdir()
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes an adapter with its manifest, and gives the manifest's path; `changes` replace fields."""

    def make(where: str, content: bytes, **changes: object) -> str:
        (folder / where).mkdir(exist_ok=True)
        (folder / where / "a.gguf").write_bytes(content)
        fields = {
            "name": f"{where}'s",
            "file": "a.gguf",
            "digest": digest(content),
            "tenant": where,
            "base_digest": digest(BASE),
        }
        (folder / where / "a.json").write_text(json.dumps(fields | changes))
        return f"{where}/a.json"

    return make


@pytest.fixture
async def tuned(serve: Serve, backend: FakeBackend, base: Path, folder: Path, write: Write) -> AsyncIterator[Service]:
    """A service with an adapter of acme and one of globex, found at the start beside some that can't be used."""
    write("acme", ACME)
    write("globex", GLOBEX, scale=0.5)
    (folder / "broken.json").write_text("{")
    (folder / "elsewhere.json").write_text(json.dumps({"file": "../base.gguf"}))
    write("other", ACME, base_digest=digest(b"another model"))
    write("false", ACME, digest=digest(b"another file"))
    write("damaged", b"no adapter")
    async with serve(loader(backend), file=base, adapters_dir=folder) as running:
        yield running


def tuned_for(tenant: str, content: bytes) -> dict[str, object]:
    return {"tenant": tenant, "isolation": "SHARED_TUNED", "adapter": digest(content)}


def shifted(shift: int) -> str:
    return "".join(chr(ALPHABET[(place + shift) % len(ALPHABET)]) for place in range(4))


def adapters_of(state: pb.GetEngineStateResponse) -> list[pb.Adapter]:
    return list(state.state.models[0].adapters)


async def engine_state(service: Service) -> pb.GetEngineStateResponse:
    return await service.engine.GetEngineState(pb.GetEngineStateRequest(), metadata=service.operator("GetEngineState"))


async def test_each_tenant_gets_its_own_adapter_and_others_the_base(tuned: Service, backend: FakeBackend) -> None:
    calls = [
        tuned.generate("x", sampling=SHORT, claims=claims)
        for claims in (tuned_for("acme", ACME), tuned_for("globex", GLOBEX), {"tenant": "initech"})
    ]
    answers = await asyncio.gather(*map(read, calls))
    assert [answer.text for answer in answers] == [shifted(3), shifted(7), shifted(0)]
    lanes = {(lane.adapter.shift if isinstance(lane.adapter, FakeAdapter) else 0, lane.scale) for lane in backend.lanes}
    assert lanes == {(3, 1.0), (7, 0.5), (0, 1.0)}


async def test_what_can_not_be_used_at_the_start_is_left_out(tuned: Service) -> None:
    found = adapters_of(await engine_state(tuned))
    assert {adapter.tenant: adapter.scale for adapter in found} == {"acme": 1.0, "globex": 0.5}
    assert [adapter.digest for adapter in found] == sorted(adapter.digest for adapter in found)
    assert {adapter.base_digest for adapter in found} == {digest(BASE)}


async def test_adapter_of_another_tenant_is_denied_everywhere(tuned: Service, backend: FakeBackend) -> None:
    for isolation in ("SHARED", "SHARED_TUNED"):
        for call in every_call(tuned, tenant="globex", isolation=isolation, adapter=digest(ACME)):
            code, info, _ = await refused(call)
            assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ADAPTER_DENIED")
    assert backend.steps == []


@pytest.mark.parametrize("adapter", ["", digest(b"not loaded"), "acme/a.json"])
async def test_tuned_tenant_never_falls_back_to_the_base(tuned: Service, backend: FakeBackend, adapter: str) -> None:
    for call in every_call(tuned, isolation="SHARED_TUNED", adapter=adapter):
        code, info, _ = await refused(call)
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
        assert info.metadata["adapter"] == adapter
    assert backend.steps == []


async def test_unloaded_adapter_lets_its_streams_end_and_takes_no_more(tuned: Service, backend: FakeBackend) -> None:
    claims = tuned_for("acme", ACME)
    backend.pause()
    call = tuned.generate("x", sampling=SHORT, claims=claims)
    await asyncio.to_thread(backend.wait_paused)
    request = pb.UnloadAdapterRequest(digest=digest(ACME))
    unloading = tuned.engine.UnloadAdapter(request, metadata=tuned.operator("UnloadAdapter"), timeout=60)
    async with asyncio.timeout(PATIENCE_S):
        while digest(ACME) in tuned.server.model.adapters.loaded:  # noqa: ASYNC110 - until the call has arrived
            await asyncio.sleep(0.001)
    code, info, _ = await refused(tuned.generate("x", claims=claims))
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
    load = pb.LoadAdapterRequest(manifest="acme/a.json")
    code, info, _ = await refused(tuned.engine.LoadAdapter(load, metadata=tuned.operator("LoadAdapter")))
    assert (code, info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS")
    assert backend.adapters == 2
    backend.resume()
    assert (await read(call)).text == shifted(3)
    await unloading
    assert backend.adapters == 1
    again = tuned.engine.UnloadAdapter(request, metadata=tuned.operator("UnloadAdapter"))
    code, info, _ = await refused(again)
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")


async def test_request_whose_adapter_is_unloaded_while_its_prompt_is_built_does_not_run(
    tuned: Service, backend: FakeBackend
) -> None:
    adapter = tuned.server.model.adapters.loaded[digest(ACME)]
    caller = Caller("acme", adapter=adapter)
    await tuned.server.model.adapters.unload(digest(ACME))
    with pytest.raises(AdapterNotFound):
        await tuned.server.model.generate([Message(Role.USER, "x")], {}, False, False, caller)
    with pytest.raises(AdapterNotFound):
        await tuned.server.model.embed(["x"], caller)
    assert backend.steps == []


async def test_adapter_is_loaded_at_run_time_with_a_scale_of_its_own(
    serve: Serve, backend: FakeBackend, base: Path, folder: Path, write: Write
) -> None:
    async with serve(loader(backend), file=base, adapters_dir=folder) as service:
        manifest = write("acme", ACME, scale=0.5)
        request = pb.LoadAdapterRequest(manifest=manifest, scale=2.0)
        loaded = (await service.engine.LoadAdapter(request, metadata=service.operator("LoadAdapter"))).adapter
        assert (loaded.digest, loaded.tenant, loaded.name, loaded.scale) == (digest(ACME), "acme", "acme's", 2.0)
        answer = await read(service.generate("x", sampling=SHORT, claims=tuned_for("acme", ACME)))
        assert answer.text == shifted(3)
        assert backend.lanes[-1].scale == 2.0
        code, info, _ = await refused(service.engine.LoadAdapter(request, metadata=service.operator("LoadAdapter")))
        assert (code, info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS")


@pytest.mark.parametrize(
    ("content", "changes", "problem"),
    [
        (ACME, {"base_digest": digest(b"another model")}, "base"),
        (ACME, {"digest": digest(b"another file")}, "digest"),
        (ACME, {"file": "nothing.gguf"}, "file"),
        (b"no adapter", {}, "file"),
        (ACME, {"tenant": "No Tenant"}, "manifest"),
        (ACME, {"file": "../../base.gguf"}, "manifest"),
    ],
)
async def test_adapter_that_can_not_be_used_is_refused_by_what_is_wrong(
    serve: Serve,
    backend: FakeBackend,
    base: Path,
    folder: Path,
    write: Write,
    content: bytes,
    changes: dict[str, object],
    problem: str,
) -> None:
    async with serve(loader(backend), file=base, adapters_dir=folder) as service:
        request = pb.LoadAdapterRequest(manifest=write("acme", content, **changes))
        code, info, _ = await refused(service.engine.LoadAdapter(request, metadata=service.operator("LoadAdapter")))
        assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_INCOMPATIBLE")
        assert dict(info.metadata) == {"problem": problem}
        assert (await read(service.generate("say:hi"))).text == "hi"
        # It can be mended and loaded.
        mended = pb.LoadAdapterRequest(manifest=write("acme", ACME))
        await service.engine.LoadAdapter(mended, metadata=service.operator("LoadAdapter"))


async def test_operator_who_leaves_lets_the_loading_go_on(
    serve: Serve, backend: FakeBackend, base: Path, folder: Path, write: Write
) -> None:
    async with serve(loader(backend), file=base, adapters_dir=folder) as service:
        backend.pause()
        running = service.generate("x", sampling=SHORT)
        await asyncio.to_thread(backend.wait_paused)
        manifest = write("acme", ACME)
        loading = asyncio.create_task(service.server.model.adapters.load(manifest))
        request = pb.LoadAdapterRequest(manifest=manifest)
        async with asyncio.timeout(PATIENCE_S):
            # Once it is on its way, nobody else may bring it in.
            while not service.server.model.adapters.is_moving(digest(ACME)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        loading.cancel()
        code, _, _ = await refused(service.engine.LoadAdapter(request, metadata=service.operator("LoadAdapter")))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        backend.resume()
        await read(running)
        async with asyncio.timeout(PATIENCE_S):
            while digest(ACME) not in service.server.model.adapters.loaded:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert backend.adapters == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "INVALID_FIELD"),
        ({"manifest": "acme/a.json", "scale": 0.0}, "INVALID_FIELD"),
        ({"manifest": "acme/a.json", "scale": 10.1}, "INVALID_FIELD"),
        ({"manifest": "acme/a.json", "scale": float("nan")}, "INVALID_FIELD"),
        ({"manifest": "acme/a.json", "model": "nothing"}, "MODEL_NOT_FOUND"),
        ({"manifest": "acme/b.json"}, "ADAPTER_NOT_FOUND"),
        ({"manifest": "acme/a.json/b"}, "ADAPTER_NOT_FOUND"),
        ({"manifest": "../x.json"}, "ADAPTER_INCOMPATIBLE"),
    ],
)
async def test_request_that_names_no_adapter_is_refused(tuned: Service, fields: dict[str, object], reason: str) -> None:
    request = pb.LoadAdapterRequest(**fields)  # type: ignore[arg-type]
    _, info, _ = await refused(tuned.engine.LoadAdapter(request, metadata=tuned.operator("LoadAdapter")))
    assert info.reason == reason


async def test_adapter_follows_its_base_in_a_process_of_several_models(
    serve: Serve, backend: FakeBackend, base: Path, folder: Path, write: Write, tmp_path: Path
) -> None:
    second = tmp_path / "second.gguf"
    second.write_bytes(b"another model")
    other = FakeBackend()
    write("acme", ACME)
    write("globex", GLOBEX, base_digest=digest(b"another model"))
    others: dict[str, BackendLoader] = {"second.gguf": loader(other)}
    async with serve(
        loader(backend), others=others, file=base, adapters_dir=folder, models=[{"file": second}]
    ) as service:
        assert (backend.adapters, other.adapters) == (1, 1)
        claims = tuned_for("globex", GLOBEX)
        code, info, _ = await refused(service.generate("x", claims=claims))
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
        answer = await read(service.generate("x", model="second", sampling=SHORT, claims=claims))
        assert answer.text == shifted(7)
        listed = await service.stub.ListModels(model_pb2.ListModelsRequest(), metadata=service.metadata(**claims))
        assert [model.id for model in listed.models] == ["second"]
