"""A model that thinks before it answers, from its tokens to the events of the façade, through both services."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from redoma_chat.settings import ChatSettings
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.template import FALLBACK_TEMPLATE
from redoma_model.server import ModelServer
from redoma_model.settings import ModelSettings
from tests.fakes.model_backend import FakeBackend, loader
from tests.fakes.model_service import FakeTenantServer

from .conftest import World, key_provider

THINKS = FALLBACK_TEMPLATE + "{# <think> </think> #}"
QUESTION = "say:<think>two and two</think>four"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(chat_template=THINKS)


@pytest.fixture
async def thinking(pki: Any, backend: FakeBackend, tenant: FakeTenantServer, tmp_path: Path) -> AsyncIterator[World]:
    """The chat service in front of the real model service, on a backend that thinks."""
    settings = ModelSettings(
        listen="127.0.0.1:0", tls=pki.tls("private", "model"), jwks_file=pki.jwks_file, file=Path("thinker.gguf")
    )
    telemetry = Telemetry("model", settings.metrics, settings.tracing)
    model = ModelServer(settings, lambda _: loader(backend), telemetry, structlog.get_logger("test"))
    await model.start()
    await model.become_ready()
    chat = ChatSettings(
        listen="127.0.0.1:0",
        tls=pki.tls("public", "chat"),
        jwks_file=pki.jwks_file,
        database_url=f"sqlite+aiosqlite:///{tmp_path}/chat.db",
        key_provider=key_provider(tmp_path),
        egress=UpstreamSettings(target=f"127.0.0.1:{model.grpc.port}", server_name="model.private.redoma"),
        tenant=UpstreamSettings(target=f"127.0.0.1:{tenant.port}", server_name="tenant.public.redoma"),
    )
    made = World(pki, chat, model, tenant, io.StringIO(), chat=None, channel=None)  # type: ignore[arg-type]
    await made.start_chat()
    yield made
    await made.channel.close()
    await made.chat.stop(0)
    await model.grpc.stop(0)
    await model.close()


async def test_reasoning_is_saved_apart_and_never_sent_back_to_the_model(thinking: World, backend: FakeBackend) -> None:
    caller = thinking.caller()
    name = await caller.create()
    first = await caller.send(name, QUESTION)
    assert (first.reasoning, first.text) == ("two and two", "four")
    assert first.done.answer.usage.reasoning_tokens > 0
    saved = await caller.message(first.done.answer.name)
    assert (saved.reasoning, saved.content) == ("two and two", "four")
    second = await caller.send(name, "say:again", parent=saved.name)
    assert second.text == "again"
    said = bytes(token for token in backend.prompts[-1] if token < 256)
    assert b"four" in said.partition(QUESTION.rpartition(">")[2].encode())[2]
    assert said.count(b"two and two") == 1, "the question alone holds it"


async def test_reasoning_has_a_field_of_its_own_in_the_events(thinking: World) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True}
    _, chunks = await thinking.caller().complete(body)
    lines = [line.removeprefix(b"data: ") for chunk in chunks for line in chunk.splitlines() if line]
    assert lines[-1] == b"[DONE]"
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "two and two"
    assert "".join(delta.get("content") or "" for delta in deltas) == "four"


async def test_reasoning_has_a_field_of_its_own_in_the_object(thinking: World) -> None:
    _, (chunk,) = await thinking.caller().complete({"messages": [{"role": "user", "content": QUESTION}]})
    answer = json.loads(chunk)
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("two and two", "four")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_counted_tokens_are_the_prompts_tokens_in_started_and_in_usage(
    thinking: World, backend: FakeBackend
) -> None:
    caller = thinking.caller()
    answer = await caller.send(await caller.create(system_prompt="Be brief."), "say:ok")
    counted = len(backend.prompts[-1])
    assert answer.done.answer.usage.input_tokens == counted
    assert answer.started.input_tokens == counted


async def test_turns_that_the_model_drops_are_reported(thinking: World) -> None:
    caller = thinking.caller()
    name = await caller.create()
    parent = ""
    for _ in range(4):
        answer = await caller.send(name, "x" * 150, parent=parent, sampling={"max_output_tokens": 4})
        parent = answer.done.answer.name
    assert answer.started.dropped_messages > 0
    assert len(await caller.messages(name)) == 8
