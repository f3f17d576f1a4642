"""Storms and broken stores: the service lives, and nothing is half-written."""

import asyncio
import random
import sqlite3

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma_chat.settings import ChatSettings
from tests.fakes.model_service import Finish, Say

from .conftest import Caller, World, eventually, refused

Message = message_pb2.Message


def database_file(settings: ChatSettings) -> str:
    return settings.database_url.removeprefix("sqlite+aiosqlite:///")


async def cancel_some_time(caller: Caller, conversation: str, after_s: float) -> None:
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=conversation, content="q"))
    listing = caller.conversations.ListConversations(conversation_pb2.ListConversationsRequest(parent="tenants/-"))
    await asyncio.sleep(after_s)
    call.cancel()
    listing.cancel()


async def test_storm_of_cancelled_calls_leaves_no_answer_streaming(world: World) -> None:
    world.model.model.script = (*(Say("x") for _ in range(300)), Finish())
    caller = world.caller()
    name = await caller.create()
    chance = random.Random(7)
    await asyncio.gather(*(cancel_some_time(caller, name, chance.random() * 0.3) for _ in range(60)))

    async def all_settled() -> bool:
        return all(message.state != Message.STATE_STREAMING for message in await caller.messages(name))

    async def nothing_runs() -> bool:
        return world.chat.grpc.drain.running == 0

    await eventually(nothing_runs)
    await eventually(all_settled)
    world.model.model.script = (Say("fine"), Finish())
    assert (await caller.send(name, "still there?")).text == "fine"


async def test_broken_database_is_unavailable_without_the_drivers_words(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    connection = sqlite3.connect(database_file(world.settings))
    connection.execute("DROP TABLE messages")
    connection.close()
    answer = await caller.send(name, "hi", parent=f"{name}/messages/x")
    failure = answer.failure
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert failure.retry_after_s is not None
    assert "messages" not in failure.message
    assert "no such table" in world.log_text.getvalue()


async def test_question_that_cannot_be_saved_is_not_half_saved(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    connection = sqlite3.connect(database_file(world.settings))
    connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON messages WHEN NEW.role = 'ASSISTANT' "
        "BEGIN INSERT INTO absent VALUES (1); END"
    )
    connection.commit()
    assert (await caller.send(name, "hi")).failure.reason == "STORAGE_UNAVAILABLE"
    connection.execute("DROP TRIGGER full")
    connection.close()
    assert await caller.messages(name) == []
    assert (await caller.conversation(name)).title == ""
    assert world.model.model.requests == []


async def test_message_that_is_no_protobuf_does_not_hurt(world: World) -> None:
    method = "/redoma.chat.v1.ChatService/SendMessage"
    identity = world.pki.mint(["chat"], method=method)
    call = world.channel.unary_stream(method)(b"\xff\xff\xff", metadata=(("redoma-identity", identity),), timeout=30)
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert await world.caller().create()


async def test_caller_with_another_services_certificate_is_denied(world: World) -> None:
    from redoma_kit.channel import open_channel
    from redoma_kit.settings import UpstreamSettings

    upstream = UpstreamSettings(target=f"127.0.0.1:{world.chat.grpc.port}", server_name="chat.public.redoma")
    channel = open_channel(upstream, world.pki.tls("private", "model"), 8 << 20)
    caller = Caller(channel, world.pki, "acme", "tenants/acme/apiKeys/one")
    request = conversation_pb2.ListConversationsRequest(parent="tenants/-")
    assert (await refused(caller.conversations.ListConversations(request))).reason == "METHOD_DENIED"
    await channel.close()
