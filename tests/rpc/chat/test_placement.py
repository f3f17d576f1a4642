"""Where texts are kept: nowhere, in the public site or in the private one, as the tenant wants and where it began."""

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.tenant.v1 import tenant_pb2
from redoma_chat.checks import source
from redoma_chat.settings import ChatSettings

from .conftest import Caller, World, eventually, refused
from .test_content import erase, export, names_of
from .test_encryption import bytes_of, shown_in, speak

PUBLIC = tenant_pb2.Tenant.CONTENT_STORAGE_PUBLIC
NONE = tenant_pb2.Tenant.CONTENT_STORAGE_NONE
PRIVATE = tenant_pb2.Tenant.CONTENT_STORAGE_PRIVATE


def want(world: World, storage: Any) -> None:
    """Has tenants want their texts there, and chat ask for it with the next call."""
    world.tenant.tenant.content_storage = storage


@pytest.fixture(autouse=True)
def always_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FRESH_S", 0.0)


def private_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/private/chat.db"


@pytest.fixture
async def two(world: World, tmp_path: Path) -> World:
    """The service with a private database beside the public one."""
    (tmp_path / "private").mkdir()
    world.settings = world.settings.model_copy(update={"private_database_url": private_url(tmp_path)})
    await world.restart_chat()
    return world


async def creation(caller: Caller) -> Any:
    request = pb.CreateConversationRequest(parent="tenants/-", conversation=pb.Conversation(title="MarkTitle"))
    return await refused(caller.conversations.CreateConversation(request))


async def update(caller: Caller, name: str) -> Any:
    request = pb.UpdateConversationRequest(conversation=pb.Conversation(name=name, title="MarkTitle"))
    return await refused(caller.conversations.UpdateConversation(request))


async def test_tenant_that_keeps_nothing_writes_nothing_and_can_read_and_delete_what_it_has(world: World) -> None:
    caller = world.caller()
    name = await caller.create(title="kept before")
    answer = (await caller.send(name, "hi")).done.answer
    want(world, NONE)
    for failure in (
        await creation(caller),
        await update(caller, name),
        (await caller.send(name, "hi")).failure,
        (await caller.extend(answer.name)).failure,
    ):
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONTENT_STORAGE_OFF")
    assert (await caller.conversation(name)).title == "kept before"
    assert len(await caller.messages(name)) == 2
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert (await caller.complete(body))[0] == "application/json"
    await caller.conversations.DeleteConversation(pb.DeleteConversationRequest(name=name))
    assert await names_of(caller) == []


async def test_private_without_a_database_is_refused_in_neutral_words_and_the_log_names_the_setting(
    world: World,
) -> None:
    caller = world.caller()
    name = await caller.create(title="public")
    want(world, PRIVATE)
    for failure in (await creation(caller), (await caller.send(name, "hi")).failure):
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert "private" not in failure.message
    assert "private_database_url" in world.log_text.getvalue()
    assert (await caller.conversation(name)).title == "public"


async def test_private_texts_go_to_the_private_database_alone(two: World, tmp_path: Path) -> None:
    want(two, PRIVATE)
    name = await speak(two)
    caller = two.caller()
    conversation_id = name.rpartition("/")[2].encode()
    assert conversation_id not in bytes_of(two.settings.database_url)
    assert conversation_id in bytes_of(private_url(tmp_path))
    assert shown_in(bytes_of(private_url(tmp_path))) == []
    assert (await caller.conversation(name)).title == "MarkTitle"
    assert len(await caller.messages(name)) == 2
    assert await names_of(caller) == [name]
    request = pb.ListConversationsRequest(parent="tenants/-", filter="markquestion")
    assert len((await caller.conversations.ListConversations(request)).conversations) == 1
    await two.restart_chat()
    assert (await two.caller().conversation(name)).system_prompt == "MarkSystem"


async def test_what_began_in_public_stays_there_to_be_read_and_is_not_added_to(two: World, tmp_path: Path) -> None:
    caller = two.caller()
    old = await caller.create(title="public")
    await caller.send(old, "hi")
    want(two, PRIVATE)
    new = await caller.create(title="private")
    assert await names_of(caller) == [new, old]
    assert (await caller.conversation(old)).title == "public"
    assert len(await caller.messages(old)) == 2
    assert (await caller.send(old, "more")).failure.reason == "CONTENT_STORAGE_OFF"
    assert (await update(caller, old)).reason == "CONTENT_STORAGE_OFF"
    made_up = old[:-4] + "0000"
    assert (await caller.send(made_up, "more")).failure.reason == "RESOURCE_NOT_FOUND"
    assert (await caller.send(new, "more")).error is None
    await caller.conversations.DeleteConversation(pb.DeleteConversationRequest(name=old))
    assert await names_of(caller) == [new]
    want(two, NONE)
    assert await names_of(caller) == [new]
    assert (await caller.conversation(new)).title == "private"
    assert (await caller.send(new, "more")).failure.reason == "CONTENT_STORAGE_OFF"


async def test_pages_run_over_both_databases_without_gaps(two: World) -> None:
    caller = two.caller()
    names = []
    for index in range(7):
        want(two, PUBLIC if index % 2 else PRIVATE)
        names.append(await caller.create())
    want(two, PRIVATE)
    seen: list[str] = []
    token = ""
    while token or not seen:
        request = pb.ListConversationsRequest(parent="tenants/-", page_size=2, page_token=token)
        response = await caller.conversations.ListConversations(request)
        seen += [each.name for each in response.conversations]
        token = response.next_page_token
    assert seen == names[::-1]


async def test_both_databases_are_exported_and_erased(two: World, tmp_path: Path) -> None:
    caller = two.caller()
    public = await caller.create(title="public")
    want(two, PRIVATE)
    private = await caller.create(title="private")
    await caller.send(private, "hi")
    items = await export(two, tenant="acme")
    names = [item.conversation.conversation.name for item in items if item.HasField("conversation")]
    assert names == [public, private]
    erased = await erase(two, tenant="acme")
    assert (erased.conversations, erased.messages, erased.content_keys) == (2, 2, 2)
    assert await names_of(caller) == []
    for name in (public, private):
        for url in (two.settings.database_url, private_url(tmp_path)):
            assert name.rpartition("/")[2].encode() not in bytes_of(url)


async def test_private_database_that_is_away_keeps_nobody_else_waiting_and_is_opened_when_it_is_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_chat.server.OPEN_INTERVAL_S", 0.05)
    away: ChatSettings = world.settings.model_copy(update={"private_database_url": private_url(tmp_path)})
    world.settings = away
    await world.restart_chat()
    caller = world.caller()
    public = await caller.create(title="public")
    # Nothing may be said to be erased, or to be all, while there may be more.
    with pytest.raises(grpc.aio.AioRpcError):
        await erase(world, tenant="acme")
    with pytest.raises(grpc.aio.AioRpcError):
        await export(world, tenant="acme")
    assert await names_of(caller) == [public]
    want(world, PRIVATE)
    assert (await creation(caller)).reason == "STORAGE_UNAVAILABLE"
    os.mkdir(tmp_path / "private")

    async def is_open() -> bool:
        try:
            return bool(await caller.create(title="private"))
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_open)
    assert len(await names_of(caller)) == 2
