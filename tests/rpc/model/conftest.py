"""The model service in this process, over real mutual TLS, on the fake backend and on llama.cpp."""

import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog

from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.model.v1 import model_pb2 as pb
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma.model.v1.model_pb2_grpc import ModelServiceStub
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.backend import BackendLoader
from redoma_model.engine.hardware import share_cores
from redoma_model.manifest import file_digest
from redoma_model.server import ModelServer
from redoma_model.settings import ModelSettings
from tests.conftest import TestPki
from tests.fakes.lora_adapter import SMOLLM2, LoraSpec, write_lora
from tests.fakes.model_backend import FakeBackend, loader

if TYPE_CHECKING:
    from redoma.model.v1.engine_pb2_grpc import EngineServiceAsyncStub
    from redoma.model.v1.model_pb2_grpc import ModelServiceAsyncStub

MODEL_FILE = Path(__file__).parents[3] / ".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf"
GREEDY = {"temperature": 0.0}


@dataclass(frozen=True, slots=True)
class Service:
    """A running model service, a client that is chat, and one that is the edge."""

    server: ModelServer
    channel: grpc.aio.Channel
    stub: "ModelServiceAsyncStub"
    engine: "EngineServiceAsyncStub"
    pki: TestPki
    telemetry: Telemetry

    def metadata(self, **claims: object) -> tuple[tuple[str, str], ...]:
        return self.pki.metadata(["chat", "model"], **claims)

    def operator(self, rpc: str, **claims: object) -> tuple[tuple[str, str], ...]:
        """Gives call metadata of a platform's operator for a method of EngineService."""
        name = f"/redoma.model.v1.EngineService/{rpc}"
        return self.pki.metadata(
            ["model"],
            **{"tenant": "", "scopes": ["platform.admin"], "method": name, **claims},  # type: ignore[arg-type]
        )

    def generate(
        self, *messages: tuple[str, str] | str, claims: dict[str, object] | None = None, **fields: object
    ) -> "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]":
        """Calls Generate; a bare text is the user's."""
        sampling = fields.pop("sampling", {})
        assert isinstance(sampling, dict)
        request = pb.GenerateRequest(
            messages=conversation(*messages),
            sampling=SamplingOptions(**sampling),
            **fields,  # type: ignore[arg-type]
        )
        return self.stub.Generate(request, metadata=self.metadata(**(claims or {})), timeout=120)  # type: ignore[return-value]


def conversation(*messages: tuple[str, str] | str) -> list[pb.Message]:
    roles = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
    pairs = [("user", message) if isinstance(message, str) else message for message in messages]
    return [pb.Message(role=roles[role], content=content) for role, content in pairs]


if TYPE_CHECKING:
    GrantedCall = grpc.aio.StreamStreamCall[pb.GenerateGrantedRequest, pb.GenerateGrantedResponse]


@dataclass(slots=True)
class Answer:
    """A whole stream."""

    started: pb.GenerateResponse.Started
    deltas: list[pb.GenerateResponse.Delta]
    done: pb.GenerateResponse.Done

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    @property
    def logprobs(self) -> list[object]:
        return [entry for delta in self.deltas for entry in delta.logprobs]


async def read(
    call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse] | GrantedCall",
) -> Answer:
    """Reads a stream to its end and checks its order."""
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) <= {"delta"}
    return Answer(events[0].started, [event.delta for event in events[1:-1]], events[-1].done)


Serve = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def serve(pki: TestPki) -> Serve:
    """Starts a service around a backend loader; `others` are the loaders of other models, by the name of their file."""

    @asynccontextmanager
    async def start(
        load: BackendLoader,
        *,
        ready: bool = True,
        others: Mapping[str, BackendLoader] | None = None,
        **fields: object,
    ) -> AsyncIterator[Service]:
        settings = model_settings(pki, **fields)
        telemetry = Telemetry("model", settings.metrics, settings.tracing)
        loads = others or {}
        server = ModelServer(
            settings, lambda chosen: loads.get(chosen.file.name, load), telemetry, structlog.get_logger("test")
        )
        await server.start()
        target = UpstreamSettings(target=f"127.0.0.1:{server.grpc.port}", server_name="model.private.redoma")
        channel = open_channel(target, pki.tls("public", "chat"), 8 << 20)
        edge = open_channel(target, pki.tls("public", "edge"), 8 << 20)
        try:
            if ready:
                await server.become_ready()
            yield Service(server, channel, ModelServiceStub(channel), EngineServiceStub(edge), pki, telemetry)
        finally:
            await channel.close()
            await edge.close()
            await server.grpc.stop(0)
            await server.close()

    return start


def model_settings(pki: TestPki, **fields: object) -> ModelSettings:
    values: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "tls": pki.tls("private", "model"),
        "jwks_file": pki.jwks_file,
        "file": MODEL_FILE,
        "context_tokens": 1_024,
        "slots": 4,
        "kv_cells": 4_096,
        "threads": 2,
    }
    return ModelSettings(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture(params=["fake", "llama"])
async def service(request: pytest.FixtureRequest, serve: Serve, pki: TestPki) -> AsyncIterator[Service]:
    """The service on each backend in turn."""
    if request.param == "fake":
        load: BackendLoader = loader(FakeBackend(context_tokens=1_024, slots=4, cells=4_096, step_s=0.003))
    else:
        share_cores(os.environ)
        from redoma_model.loading import LlamaModels

        load = LlamaModels()(model_settings(pki))
    async with serve(load) as running:
        yield running


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, str]:
    """Writes an adapter for each of two tenants into the test's folder and gives their digests by tenant."""
    base = file_digest(MODEL_FILE)
    digests: dict[str, str] = {}
    for seed, tenant in enumerate(("acme", "globex"), 1):
        file = write_lora(tmp_path / f"{tenant}.gguf", LoraSpec("llama", SMOLLM2, seed=seed, strength=4.0))
        digests[tenant] = file_digest(file)
        manifest = {"name": tenant, "file": file.name, "tenant": tenant, "digest": digests[tenant], "base_digest": base}
        (tmp_path / f"{tenant}.json").write_text(json.dumps(manifest))
    return digests


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def fake_service(serve: Serve, backend: FakeBackend) -> AsyncIterator[Service]:
    """The service on the fake backend that the test holds too."""
    async with serve(loader(backend), max_waiting=2) as running:
        yield running


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def free_port() -> int:
    """A port of this test's range that nobody listens on."""
    for port in range(21_000, 22_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise RuntimeError("no free port")
