"""Texts at rest: never plain in a database, bound to their place, unreadable without their key; the service lives."""

import asyncio
import base64
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from sqlalchemy import text

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.common.v1 import sampling_pb2
from redoma_chat.conversations import Conversation
from redoma_chat.errors import ContentUnreadable
from redoma_chat.key_provider import LocalKeys
from redoma_chat.names import Owner
from redoma_chat.sealing import Sealing
from redoma_chat.server import MIGRATIONS, SCHEMA
from redoma_kit.database import PLATFORM, Database
from tests.fakes.model_service import Finish, Say

from .chat_store import ACME, ACME_TWO, GLOBEX, LOG, Kept, kept_on, store_on
from .conftest import World, eventually, refused

MARKERS = ("MarkTitle", "MarkSystem", "MarkStop", "MarkGrammar", "MarkQuestion", "MarkAnswer", "MarkThought")


def bytes_of(database_url: str) -> bytes:
    """Gives all that a SQLite database has on disk."""
    file = Path(database_url.removeprefix("sqlite+aiosqlite:///"))
    return b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


def shown_in(content: bytes) -> list[str]:
    return [marker for marker in MARKERS if marker.lower().encode() in content.lower()]


def change_row(database_url: str, statement: str, row_id: str = "") -> None:
    with closing(sqlite3.connect(database_url.removeprefix("sqlite+aiosqlite:///"))) as connection:
        connection.execute(statement, (row_id,) if "?" in statement else ())
        connection.commit()


async def speak(world: World) -> str:
    """Leaves every kind of text in a conversation, and gives its name."""
    caller = world.caller()
    sampling = sampling_pb2.SamplingOptions(stop=["MarkStop"])
    name = await caller.create(title="MarkTitle", system_prompt="MarkSystem", sampling=sampling)
    world.model.model.script = (Say("", "MarkThought"), Say("MarkAnswer"), Finish("LENGTH"))
    wanted = sampling_pb2.SamplingOptions(
        response_format=sampling_pb2.ResponseFormat(json_schema='{"description": "MarkGrammar"}')
    )
    assert (await caller.send(name, "MarkQuestion", sampling=wanted)).error is None
    return name


async def dump(kept: Kept) -> bytes:
    """Gives all rows of every table, as the server shows them."""
    found: list[object] = []
    async with kept.database.transaction(PLATFORM) as session:
        for table in ("conversations", "messages", "content_keys"):
            found += [tuple(row) for row in (await session.execute(text(f"SELECT * FROM {table}"))).all()]
    return repr(found).encode()


async def test_nothing_that_was_said_is_in_the_files(world: World) -> None:
    name = await speak(world)
    caller = world.caller()
    assert shown_in(bytes_of(world.settings.database_url)) == []
    await world.restart_chat()
    caller = world.caller()
    conversation, (question, answer) = await caller.conversation(name), await caller.messages(name)
    assert (conversation.title, conversation.system_prompt) == ("MarkTitle", "MarkSystem")
    assert list(conversation.sampling.stop) == ["MarkStop"]
    assert (question.content, answer.content, answer.reasoning) == ("MarkQuestion", "MarkAnswer", "MarkThought")
    assert (await caller.extend(answer.name)).error is None
    assert "MarkGrammar" in world.model.model.requests[-1].sampling.response_format.json_schema
    assert shown_in(bytes_of(world.settings.database_url)) == []


async def test_no_row_shows_what_was_said(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        conversation = await kept.conversation(ACME, "MarkTitle", "MarkSystem")
        await kept.said(ACME, conversation, "MarkQuestion")
        answer = await kept.streaming(ACME, conversation, "MarkQuestion")
        await kept.store.checkpoint_answers([(ACME, kept.whole(answer, "MarkAnswer"))])
        assert shown_in(await dump(kept)) == []
        assert conversation.id.encode() in await dump(kept)


SWAPS = {
    "a row of the same tenant": "UPDATE messages SET content = (SELECT content FROM messages WHERE id = :other)"
    " WHERE id = :own",
    "another column": "UPDATE messages SET reasoning = content, content = reasoning WHERE id = :own",
    "another principal": "UPDATE messages SET principal = 'tenants/acme/users/two' WHERE id = :own",
    "another tenant": "UPDATE messages SET tenant = 'globex' WHERE id = :own",
}


@pytest.mark.parametrize("swap", SWAPS)
async def test_text_moved_elsewhere_in_the_database_is_unreadable(database_url: str, swap: str) -> None:
    async with kept_on(database_url) as kept:
        conversation = await kept.conversation(ACME)
        await kept.conversation(GLOBEX)
        own, other = [await kept.said(ACME, conversation, f"q{n}") for n in range(2)]
        async with kept.database.transaction(PLATFORM) as session:
            await session.execute(text(SWAPS[swap]), {"own": own.id, "other": other.id})
        owner = {"another principal": ACME_TWO, "another tenant": Owner("globex", ACME.principal)}.get(swap, ACME)
        with pytest.raises(ContentUnreadable):
            await kept.store.get_message(owner, conversation.id, own.id)
        assert await kept.store.get_message(ACME, conversation.id, other.id) is not None


async def test_damaged_conversation_is_data_loss_that_names_it_and_it_can_be_deleted(world: World) -> None:
    caller = world.caller()
    damaged, whole = await speak(world), await caller.create(title="whole")
    change = "UPDATE conversations SET title = substr(title, 1, length(title) - 1) WHERE id = ?"
    await asyncio.to_thread(change_row, world.settings.database_url, change, damaged.rpartition("/")[2])
    for call in (
        caller.conversations.GetConversation(pb.GetConversationRequest(name=damaged)),
        caller.conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/-")),
    ):
        failure = await refused(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "CONTENT_UNREADABLE")
        assert failure.metadata["resource"] == damaged
    assert (await caller.conversation(whole)).title == "whole"
    await caller.conversations.DeleteConversation(pb.DeleteConversationRequest(name=damaged))
    listed = await caller.conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/-"))
    assert [each.title for each in listed.conversations] == ["whole"]
    assert "content unreadable" in world.log_text.getvalue()
    assert shown_in(world.log_text.getvalue().encode()) == []


async def test_wrong_wrapping_key_is_data_loss_and_other_tenants_are_served(world: World) -> None:
    name = await speak(world)
    assert world.settings.key_provider.file is not None
    kept_key = world.settings.key_provider.file.read_bytes()
    world.settings.key_provider.file.write_bytes(base64.b64encode(os.urandom(32)))
    await world.restart_chat()
    caller, other = world.caller(), world.caller("globex")
    assert (await refused(caller.conversations.GetConversation(pb.GetConversationRequest(name=name)))).reason == (
        "CONTENT_UNREADABLE"
    )
    # A key made in place of the one that can't be had would leave two that no file of keys opens.
    creation = pb.CreateConversationRequest(parent="tenants/-", conversation=pb.Conversation(title="x"))
    assert (await refused(caller.conversations.CreateConversation(creation))).reason == "CONTENT_UNREADABLE"
    assert (await other.send(await other.create(), "hi")).error is None
    assert "content keys can't be unwrapped" in world.log_text.getvalue()
    # With the former key behind the other both open.
    with world.settings.key_provider.file.open("ab") as file:
        file.write(b"\n" + kept_key)
    await world.restart_chat()
    assert (await world.caller().conversation(name)).title == "MarkTitle"


async def test_replaced_wrapping_key_is_needed_no_more_once_the_log_says_so(world: World) -> None:
    name = await speak(world)
    file = world.settings.key_provider.file
    assert file is not None
    old, new = file.read_bytes(), base64.b64encode(os.urandom(32))
    file.write_bytes(new + b"\n" + old)
    await world.restart_chat()

    async def is_said() -> bool:
        return "no other is needed" in world.log_text.getvalue()

    await eventually(is_said)
    file.write_bytes(new)
    await world.restart_chat()
    assert (await world.caller().conversation(name)).title == "MarkTitle"


async def test_service_without_keys_does_not_start_and_says_how_to_make_one(world: World) -> None:
    from redoma_chat.key_provider import KeyProviderUnusable
    from redoma_chat.server import ChatServer
    from redoma_chat.settings import KeyProviderSettings

    settings = world.settings.model_copy(update={"key_provider": KeyProviderSettings()})
    with pytest.raises(KeyProviderUnusable, match="openssl rand"):
        ChatServer(settings, LOG)


async def test_key_destroyed_by_another_process_is_of_no_use_at_once(database_url: str) -> None:
    provider = LocalKeys((os.urandom(32),))
    async with kept_on(database_url, provider) as kept:
        conversation = await kept.conversation(ACME)
        assert await kept.store.get_conversation(ACME, conversation.id) is not None
        async with kept.database.transaction(PLATFORM) as session:
            await session.execute(text("DELETE FROM content_keys"))
        with pytest.raises(ContentUnreadable):
            await kept.store.get_conversation(ACME, conversation.id)


async def test_first_texts_of_a_tenant_from_many_processes_share_one_key(database_url: str) -> None:
    provider = LocalKeys((os.urandom(32),))
    async with kept_on(database_url, provider) as kept:
        others = [store_on(kept.databases, kept.clock, provider) for _ in range(8)]
        ids = [kept.ids.new() for _ in others]
        made = zip(others, ids, strict=True)
        await asyncio.gather(*(one.create_conversation(ACME, Conversation(number, number), "") for one, number in made))
        assert await kept.titles(ACME) == ids
        async with kept.database.transaction(PLATFORM) as session:
            assert (await session.execute(text("SELECT count(*) FROM content_keys"))).scalar_one() == 1


EARLIER_ROWS = (
    "INSERT INTO conversations (id, tenant, principal, title, title_folded, system_prompt, model, sampling, request_id,"
    " latest_message_id, create_time_us, update_time_us) VALUES (:id, :tenant, :principal, 'MarkTitle ä',"
    " 'marktitle ä', 'MarkSystem', '', :sampling, NULL, '', 1, 1)",
    "INSERT INTO messages (id, conversation_id, tenant, principal, parent_id, role, content, content_folded, reasoning,"
    " state, finish_reason, model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, create_time_us,"
    " update_time_us, response_format) VALUES (:message, :id, :tenant, :principal, '', 'ASSISTANT', 'MarkAnswer',"
    " 'markanswer', 'MarkThought', 'PARTIAL', 'LENGTH', 'm', 1, 0, 1, 1, 1, 1, :form)",
)
TEXTS = {
    "sampling": '{"logit_bias": {}, "stop": ["MarkStop"]}',
    "form": '{"kind": "json_schema", "text": "MarkGrammar"}',
}


async def left_by_an_earlier_release(database_url: str, tenants: int) -> None:
    database = Database(database_url, structlog.stdlib.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS, "0002" if database_url.startswith("sqlite") else "0004")
    async with database.transaction(PLATFORM) as session:
        for number in range(tenants):
            tenant = f"t{number}"
            row = {"id": f"c{number}", "message": f"m{number}", "tenant": tenant}
            row["principal"] = f"tenants/{tenant}/apiKeys/k"
            for statement in EARLIER_ROWS:
                await session.execute(text(statement), row | TEXTS)
    await database.close()


async def test_rows_of_an_earlier_release_are_read_and_then_sealed(database_url: str) -> None:
    await left_by_an_earlier_release(database_url, 30)
    async with kept_on(database_url) as kept:
        owner = Owner("t7", "tenants/t7/apiKeys/k")

        async def is_whole() -> bool:
            conversation = await kept.store.get_conversation(owner, "c7")
            message = await kept.store.get_message(owner, "c7", "m7")
            assert conversation is not None and message is not None and message.response_format is not None
            return (
                (conversation.title, conversation.system_prompt) == ("MarkTitle ä", "MarkSystem")
                and conversation.sampling.stop == ("MarkStop",)
                and (message.content, message.reasoning) == ("MarkAnswer", "MarkThought")
                and message.response_format.text == "MarkGrammar"
            )

        assert await is_whole()
        # Cut short in the middle, and begun again.
        assert await kept.store.seal_batch(owner.storage) > 0
        assert await is_whole()
        await Sealing(kept.store, lambda: kept.databases.scrub(rewrite=True), LOG).run()
        assert await is_whole()
        assert shown_in(await dump(kept)) == []
        assert await kept.store.seal_batch(owner.storage) == 0
    if database_url.startswith("sqlite"):
        assert shown_in(bytes_of(database_url)) == []


async def test_plain_answer_is_continued_and_saved_sealed(database_url: str) -> None:
    await left_by_an_earlier_release(database_url, 1)
    async with kept_on(database_url) as kept:
        owner = Owner("t0", "tenants/t0/apiKeys/k")
        partial = await kept.store.get_message(owner, "c0", "m0")
        assert partial is not None
        assert await kept.store.reopen_answer(owner, partial)
        assert await kept.store.save_answer(owner, kept.whole(partial, "MarkAnswer and more"))
        await Sealing(kept.store, kept.databases.scrub, LOG).run()
        found: Any = await kept.store.get_message(owner, "c0", "m0")
        assert (found.content, found.response_format.text) == ("MarkAnswer and more", "MarkGrammar")
        assert shown_in(await dump(kept)) == []


async def test_search_finds_in_many_conversations_page_by_page(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        for number in range(120):
            conversation = await kept.conversation(ACME, f"number {number}")
            if number % 10 == 0:
                await kept.said(ACME, conversation, f"Find ME {number}")
            kept.clock.pass_s(1)
        found: list[str] = []
        before = None
        while page := await kept.store.list_conversations(ACME, before, 5, ("find", "me")):
            found += [each.title for each in page]
            before = page[-1].update_time_us, page[-1].id
        assert found == [f"number {number}" for number in range(110, -1, -10)]
        assert await kept.store.list_conversations(ACME_TWO, None, 5, ("find",)) == []
        # One word in the title, another in a message.
        assert len(await kept.store.list_conversations(ACME, None, 50, ("number", "100", "to"))) == 1
