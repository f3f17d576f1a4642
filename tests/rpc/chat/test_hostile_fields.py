"""Hostile values in every field of every call about conversations and messages."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.chat.v1 import message_pb2
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma_chat.errors import CHAT_ERRORS
from tests.fakes.hostile_requests import LONG, forged_tokens, hostile_requests, problem_of
from tests.fakes.postgres import BACKENDS

from .conftest import Caller, World

AT_ONCE = 16
MAX_LOGGED = 1_000

pytestmark = pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)


async def sound_requests(caller: Caller) -> dict[str, Message]:
    """Gives a request of each method that works."""
    parent = f"tenants/{caller.tenant}"
    mine, spare = await caller.create(title="one"), await caller.create(title="two")
    message = (await caller.send(mine, "hello")).done.answer.name
    return {
        "CreateConversation": pb.CreateConversationRequest(parent=parent),
        "GetConversation": pb.GetConversationRequest(name=mine),
        "ListConversations": pb.ListConversationsRequest(parent=parent),
        "UpdateConversation": pb.UpdateConversationRequest(
            conversation=pb.Conversation(name=mine, sampling=SamplingOptions()), update_mask=FieldMask(paths=["*"])
        ),
        "DeleteConversation": pb.DeleteConversationRequest(name=spare),
        "GetMessage": pb.GetMessageRequest(name=message),
        "ListMessages": pb.ListMessagesRequest(parent=mine),
        "SendMessage": message_pb2.SendMessageRequest(conversation=mine, content="hello"),
        "ContinueMessage": message_pb2.ContinueMessageRequest(message=message),
    }


async def tokens_for(caller: Caller, name: str, sound: Any) -> tuple[str, ...]:
    """Gives forged page tokens for a list."""
    if "page_token" not in sound.DESCRIPTOR.fields_by_name:
        return ()
    request = type(sound)()
    request.CopyFrom(sound)
    request.page_size = 1
    return forged_tokens((await getattr(caller.conversations, name)(request)).next_page_token)


async def outcome(caller: Caller, name: str, request: Message) -> grpc.aio.AioRpcError | None:
    """Gives the status that a call ends with, None if it succeeds."""
    if name in ("SendMessage", "ContinueMessage"):
        return (await caller.collect(getattr(caller.chat, name)(request))).error
    try:
        await getattr(caller.conversations, name)(request)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def test_no_hostile_value_does_more_than_being_refused(world: World) -> None:
    """Every answer is one of success or a documented refusal, and the service lives on."""
    caller = world.caller()
    turns, found = asyncio.Semaphore(AT_ONCE), []

    async def send(name: str, request: Message, what: str) -> None:
        async with turns:
            error = await outcome(caller, name, request)
            if error is not None and (problem := problem_of(error, CHAT_ERRORS)):
                found.append(f"{name}.{what}: {problem}")

    requests = await sound_requests(caller)
    for name, sound in requests.items():
        tokens = await tokens_for(caller, name, sound)
        async with asyncio.TaskGroup() as group:
            for hostile in hostile_requests(sound, tokens):
                group.create_task(send(name, hostile.request, f"{hostile.field} = {hostile.value}"))
    assert not found, "\n".join(found)
    assert await outcome(caller, "GetConversation", requests["GetConversation"]) is None
    log = world.log_text.getvalue()
    assert '"level": "error"' not in log, [line for line in log.splitlines() if '"level": "error"' in line][:3]
    assert LONG[:MAX_LOGGED] not in log
