"""ContentService: all that is held comes out, what is erased is gone from every place, nobody else loses a thing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.chat.v1 import content_pb2 as pb
from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.chat.v1.content_pb2_grpc import ContentServiceStub
from redoma_chat.content import Content, Erased
from redoma_chat.conversations import MessageState
from redoma_chat.errors import ContentUnreadable
from redoma_chat.store.content import ROWS_A_BATCH
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from tests.fakes.model_service import Say, WaitFor
from tests.fakes.postgres import BACKENDS

from .chat_store import ACME, ACME_TWO, GLOBEX, LOG, Kept, kept_on
from .conftest import Caller, World, failure_of, refused
from .test_encryption import bytes_of, shown_in, speak

on_both = pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)


@asynccontextmanager
async def content_service(world: World, service: str = "tenant", site: str = "public") -> AsyncIterator[Any]:
    """Gives ContentService as a service with a certificate of its own calls it."""
    upstream = UpstreamSettings(target=f"127.0.0.1:{world.chat.grpc.port}", server_name="chat.public.redoma")
    channel = open_channel(upstream, world.pki.tls(site, service), 8 << 20)
    yield ContentServiceStub(channel)
    await channel.close()


async def erase(world: World, **fields: Any) -> pb.EraseContentResponse:
    async with content_service(world) as service:
        response: pb.EraseContentResponse = await service.EraseContent(pb.EraseContentRequest(**fields), timeout=30)
        return response


async def export(world: World, **fields: Any) -> list[pb.ExportContentResponse]:
    async with content_service(world) as service:
        return [item async for item in service.ExportContent(pb.ExportContentRequest(**fields), timeout=30)]


async def names_of(caller: Caller) -> list[str]:
    request = conversation_pb2.ListConversationsRequest(parent="tenants/-")
    return [each.name for each in (await caller.conversations.ListConversations(request)).conversations]


@on_both
async def test_export_gives_all_of_a_tenant_each_conversation_with_its_messages(world: World) -> None:
    one, two = world.caller(), world.caller(principal="tenants/acme/users/two")
    first, second = await one.create(title="one's"), await two.create(title="two's", system_prompt="s")
    for index in range(25):
        await one.send(first, f"q{index}")
    await two.send(second, "hello")
    await world.caller("globex").create(title="theirs")
    items = await export(world, tenant="acme")
    held = [item.conversation for item in items if item.HasField("conversation")]
    assert [(each.conversation.name, each.principal) for each in held] == [
        (first, "tenants/acme/apiKeys/one"),
        (second, "tenants/acme/users/two"),
    ]
    assert held[1].conversation == await two.conversation(second)
    assert [item.message for item in items[1:51]] == await one.messages(first)
    assert [item.message for item in items[52:]] == await two.messages(second)
    only = await export(world, tenant="acme", principal="tenants/acme/users/two")
    assert [each.WhichOneof("item") for each in only] == ["conversation", "message", "message"]
    assert await export(world, tenant="nobody") == []


@on_both
async def test_erasing_a_principal_leaves_the_others(world: World) -> None:
    one, two = world.caller(), world.caller(principal="tenants/acme/users/two")
    first, second = await one.create(), await two.create()
    await one.send(first, "hi")
    await two.send(second, "hi")
    erased = await erase(world, tenant="acme", principal="tenants/acme/apiKeys/one")
    assert (erased.conversations, erased.messages, erased.content_keys) == (1, 2, 0)
    assert await names_of(one) == []
    assert len(await two.messages(second)) == 2
    again = await erase(world, tenant="acme", principal="tenants/acme/apiKeys/one")
    assert again == pb.EraseContentResponse()


@on_both
async def test_erasing_a_tenant_destroys_its_key_and_what_comes_later_has_another(world: World) -> None:
    caller, other = world.caller(), world.caller("globex")
    name, theirs = await caller.create(title="x"), await other.create(title="theirs")
    await caller.send(name, "hi")
    erased = await erase(world, tenant="acme")
    assert (erased.conversations, erased.messages, erased.content_keys) == (1, 2, 1)
    assert await erase(world, tenant="acme") == pb.EraseContentResponse()
    assert await export(world, tenant="acme") == []
    again = await caller.create(title="again")
    assert (await caller.conversation(again)).title == "again"
    assert (await other.conversation(theirs)).title == "theirs"
    assert (await erase(world, tenant="acme")).content_keys == 1


async def test_nothing_of_what_was_erased_is_left_in_the_files(world: World) -> None:
    name = (await speak(world)).rpartition("/")[2].encode()
    assert name in bytes_of(world.settings.database_url)
    await erase(world, tenant="acme")
    left = bytes_of(world.settings.database_url)
    assert name not in left
    assert b"tenants/acme/apiKeys/one" not in left
    assert shown_in(left) == []


@on_both
async def test_running_answer_ends_and_stays_erased(world: World) -> None:
    caller, other = world.caller(), world.caller("globex")
    never = asyncio.Event()
    world.model.model.script = (Say("part"), WaitFor(never))
    streams = []
    for who in (caller, other):
        request = message_pb2.SendMessageRequest(conversation=await who.create(), content="hi")
        stream = who.chat.SendMessage(request)
        while (await stream.read()).WhichOneof("event") != "delta":
            pass
        streams.append(stream)
    erased = await erase(world, tenant="acme")
    assert erased.conversations == 1
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await streams[0].read()
    # As it is ended, or when it finds nothing to save its end in.
    assert failure_of(ended.value).reason in ("TENANT_PURGED", "RESOURCE_NOT_FOUND")
    assert await export(world, tenant="acme") == []
    # Ending it wrote nothing back: there is no key to write with.
    assert await erase(world, tenant="acme") == pb.EraseContentResponse()
    assert len(await export(world, tenant="globex")) == 3
    streams[1].cancel()


@pytest.mark.parametrize("service", [("edge", "public"), ("chat", "public"), ("model", "private")])
async def test_only_the_tenant_service_may_call(world: World, service: tuple[str, str]) -> None:
    await world.caller().create()
    async with content_service(world, *service) as stub:
        call = stub.EraseContent(pb.EraseContentRequest(tenant="acme"), timeout=30)
        assert (await refused(call)).reason == "METHOD_DENIED"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExportContent(pb.ExportContentRequest(tenant="acme"), timeout=30).read()
        assert failure_of(caught.value).reason == "METHOD_DENIED"
    assert len(await names_of(world.caller())) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "tenant"),
        ({"tenant": "-"}, "tenant"),
        ({"tenant": "tenants/acme"}, "tenant"),
        ({"tenant": "acme", "principal": "one"}, "principal"),
        ({"tenant": "acme", "principal": "tenants/globex/apiKeys/one"}, "principal"),
        ({"tenant": "acme", "principal": "tenants/acme"}, "principal"),
    ],
)
async def test_subject_that_is_none_is_refused_and_erases_nothing(
    world: World, fields: dict[str, Any], field: str
) -> None:
    await world.caller().create()
    async with content_service(world) as service:
        failure = await refused(service.EraseContent(pb.EraseContentRequest(**fields), timeout=30))
        assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)
    assert len(await names_of(world.caller())) == 1


async def test_time_before_which_is_erased_arrives(world: World) -> None:
    caller = world.caller()
    old = await caller.create()
    young = await caller.create()
    before = Timestamp()
    before.CopyFrom((await caller.conversation(young)).create_time)
    assert (await erase(world, tenant="acme", before_time=before)).conversations == 1
    assert await names_of(caller) == [young]
    assert (
        await refused(caller.conversations.GetConversation(conversation_pb2.GetConversationRequest(name=old)))
    ).reason


class NothingRuns:
    def revoke(self, revocation: Any) -> int:
        return 0


def content_of(kept: Kept) -> Content:
    return Content(kept.store, NothingRuns(), kept.databases.scrub, LOG)


async def test_what_was_said_since_stays_readable_under_a_key_of_its_own(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        await kept.said(ACME, await kept.conversation(ACME, "old"), "old")
        both = await kept.conversation(ACME, "both", "told before")
        await kept.said(ACME, both, "before")
        kept.clock.pass_s(1)
        since_us = kept.clock()
        kept.clock.pass_s(1)
        late = await kept.said(ACME, both, "after")
        young = await kept.conversation(ACME_TWO, "young")
        erased = await content_of(kept).erase("acme", "", since_us)
        assert erased == Erased(conversations=1, messages=4, content_keys=1)
        found = await kept.store.list_messages(ACME, both.id, "", 10)
        assert [message.content for message in found] == ["after", "to after"]
        assert found[1].id == late.id
        left = await kept.store.get_conversation(ACME, both.id)
        assert left is not None
        assert (left.title, left.system_prompt) == ("", "")
        assert await kept.titles(ACME_TWO) == ["young"]
        assert young.id
        # Again: nothing is left from before, and the key is not older.
        assert await content_of(kept).erase("acme", "", since_us) == Erased()


async def test_more_than_a_batch_is_erased_and_others_keep_theirs(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        for _ in range(ROWS_A_BATCH + 1):
            await kept.conversation(ACME)
        theirs = await kept.conversation(GLOBEX, "theirs")
        assert (await content_of(kept).erase("acme", "", None)).conversations == ROWS_A_BATCH + 1
        assert await kept.store.get_conversation(GLOBEX, theirs.id) == theirs


async def test_texts_written_while_a_tenant_is_erased_are_erased_or_readable(database_url: str) -> None:
    """Whoever loses the race, no conversation is left whose key is gone."""
    async with kept_on(database_url) as kept:
        content = content_of(kept)

        async def write() -> None:
            for number in range(20):
                await kept.conversation(ACME, f"t{number}")

        async def erase_often() -> None:
            for _ in range(10):
                await content.erase("acme", "", None)
                await asyncio.sleep(0)

        await asyncio.gather(write(), write(), erase_often())
        # Raises ContentUnreadable where one is left that was sealed with a key that was destroyed.
        await kept.titles(ACME)
        await content.erase("acme", "", None)
        assert await kept.titles(ACME) == []


async def test_end_of_an_answer_that_was_erased_meanwhile_leaves_nothing(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        answer = await kept.streaming(ACME, await kept.conversation(ACME), "hi")
        await content_of(kept).erase("acme", "", None)
        await kept.store.checkpoint_answers([(ACME, kept.whole(answer, "late"))])
        assert not await kept.store.save_answer(ACME, kept.whole(answer, "late"))
        assert answer.state is MessageState.STREAMING
        assert await content_of(kept).erase("acme", "", None) == Erased()


async def test_export_of_something_damaged_fails_and_says_so(database_url: str) -> None:
    from sqlalchemy import text

    from redoma_kit.database import PLATFORM

    async with kept_on(database_url) as kept:
        await kept.conversation(ACME)
        async with kept.database.transaction(PLATFORM) as session:
            await session.execute(text("DELETE FROM content_keys"))
        with pytest.raises(ContentUnreadable):
            _ = [item async for item in content_of(kept).export("acme", "")]
