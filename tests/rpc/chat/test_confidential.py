"""No prompt, answer or credential in anything the service writes for operators: log, metrics, spans, errors."""

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from prometheus_client import generate_latest

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.common.v1 import sampling_pb2
from redoma.tenant.v1 import tenant_pb2
from redoma_kit.settings import TracingSettings
from tests.fakes.model_service import Fail, Finish, Say
from tests.fakes.postgres import BACKENDS
from tests.rpc.kit.test_telemetry import Collector, collector

from .conftest import Caller, World
from .test_content import erase, export
from .test_encryption import change_row

__all__ = ["collector"]
SAID = "Markersecret"
SAMPLING = sampling_pb2.SamplingOptions(stop=[SAID])


class Talk:
    """A caller that says the marker in every way there is, and keeps what failures said."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.failures: list[str] = []

    async def attempt(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.details()} {error.trailing_metadata()}")
            return None

    async def converse(self) -> None:
        conversations = self._caller.conversations
        wanted = pb.Conversation(title=SAID, system_prompt=SAID, sampling=SAMPLING)
        creation = pb.CreateConversationRequest(parent="tenants/-", conversation=wanted, request_id=SAID)
        made = await self.attempt(conversations.CreateConversation(creation))
        name = made.conversation.name if made else "tenants/acme/conversations/none"
        for content in (SAID, f"{SAID}\0", SAID * 100_000):
            answer = await self._caller.send(name, content, sampling=SAMPLING)
            if answer.error is not None:
                self.failures.append(str(answer.error.details()))
        for words in (SAID, f"\0{SAID}", SAID * 30):
            listing = pb.ListConversationsRequest(parent="tenants/-", filter=words)
            await self.attempt(conversations.ListConversations(listing))
        changed = pb.Conversation(name=name, title=SAID, system_prompt=SAID * 10_000)
        await self.attempt(conversations.UpdateConversation(pb.UpdateConversationRequest(conversation=changed)))

    async def ask(self) -> None:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": SAID}], "stop": SAID, "user": SAID}
        for one in (body, body | {"stream": True}, body | {"stop": 1}, json.dumps(body).encode()[:-5]):
            await self.attempt(self._caller.complete(one))
        await self.attempt(self._caller.embed({"input": [SAID, SAID]}))
        await self.attempt(self._caller.openai.Ask(HttpBody(data=json.dumps({"prompt": SAID}).encode())))

    async def all(self) -> None:
        await self.converse()
        await self.ask()


async def talk_through_every_trouble(world: World) -> list[str]:
    """Says it while all is well, while the model fails, and while a check refuses; gives what failures said."""
    talk = Talk(world.caller())
    world.model.model.script = (Say(SAID, SAID), Finish())
    await talk.all()
    for failure in (Fail(grpc.StatusCode.INTERNAL, "GENERATION_FAILED"), Fail(grpc.StatusCode.UNKNOWN)):
        world.model.model.script = (Say(SAID), failure)
        await talk.all()
    await export(world, tenant="acme")
    if world.settings.database_url.startswith("sqlite"):
        for change in ("UPDATE messages SET content = x'ff01ff'", "DROP TABLE messages"):
            await asyncio.to_thread(change_row, world.settings.database_url, change)
            await talk.converse()
    else:
        await erase(world, tenant="acme")
    pattern = tenant_pb2.BlockedPattern(text=SAID, action=tenant_pb2.BlockedPattern.ACTION_REFUSE)
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(blocked_patterns=[pattern])
    stranger = Talk(world.caller("globex"))
    await stranger.all()
    return talk.failures + stranger.failures


@pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)
async def test_nothing_that_was_said_is_written_for_operators_whatever_fails(
    world: World, collector: tuple[Collector, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept, endpoint = collector
    world.settings = world.settings.model_copy(update={"tracing": TracingSettings(otlp_endpoint=endpoint)})
    await world.restart_chat()
    failures = await talk_through_every_trouble(world)
    metrics = generate_latest(world.chat.telemetry.registry).decode()
    world.chat.telemetry.stop()
    spans = ""
    while not kept.spans.empty():
        spans += str(kept.spans.get())
    places = {"log": world.log_text.getvalue() + caplog.text, "metrics": metrics, "spans": spans}
    for place, sign in (("log", "GENERATION_FAILED"), ("metrics", "redoma_calls_total"), ("spans", "SendMessage")):
        assert sign in places[place], f"nothing is looked at in {place}"
    assert len(failures) > 20
    for place, written in (places | {"errors": "".join(failures)}).items():
        assert SAID.lower() not in written.lower(), place
        assert "eyJhbGciOi" not in written, f"an identity is in {place}"
