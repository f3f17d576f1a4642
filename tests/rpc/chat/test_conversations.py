"""ConversationService: what a principal keeps, and that nobody else can see it."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.common.v1 import sampling_pb2
from tests.fakes.model_service import Finish, Say
from tests.fakes.postgres import BACKENDS

from .conftest import Caller, World, refused

pytestmark = pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)


async def list_names(caller: Caller, **fields: Any) -> list[str]:
    response = await caller.conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/-", **fields))
    return [conversation.name for conversation in response.conversations]


async def every_way_in(caller: Caller, conversation: str, message: str) -> list[Any]:
    """Gives the failure of each call that names the conversation or the message."""
    conversations = caller.conversations
    answers = [await caller.send(conversation, "x"), await caller.send(conversation, "x", parent=message)]
    answers.append(await caller.extend(message))
    return [
        await refused(conversations.GetConversation(pb.GetConversationRequest(name=conversation))),
        await refused(
            conversations.UpdateConversation(
                pb.UpdateConversationRequest(conversation=pb.Conversation(name=conversation, title="mine"))
            )
        ),
        await refused(conversations.DeleteConversation(pb.DeleteConversationRequest(name=conversation))),
        await refused(conversations.ListMessages(pb.ListMessagesRequest(parent=conversation))),
        await refused(conversations.GetMessage(pb.GetMessageRequest(name=message))),
        *(answer.failure for answer in answers),
    ]


async def test_another_tenant_can_do_nothing_with_a_conversation(world: World) -> None:
    owner, other = world.caller("acme"), world.caller("globex")
    name = await owner.create(title="ours")
    message = (await owner.send(name, "secret")).done.answer.name
    assert {failure.reason for failure in await every_way_in(other, name, message)} == {"TENANT_MISMATCH"}
    # Guessing the id under its own name finds nothing either.
    guessed = name.replace("acme", "globex"), message.replace("acme", "globex")
    assert {failure.reason for failure in await every_way_in(other, *guessed)} == {"RESOURCE_NOT_FOUND"}
    assert await list_names(other) == []
    assert await list_names(other, filter="secret") == []
    assert (await owner.conversation(name)).title == "ours"


async def test_another_principal_of_the_tenant_sees_what_it_would_see_of_nothing(world: World) -> None:
    owner = world.caller()
    other = world.caller(principal="tenants/acme/apiKeys/two")
    name = await owner.create()
    message = (await owner.send(name, "secret")).done.answer.name
    real = await every_way_in(other, name, message)
    made_up = name[:-4] + "0000", message.replace(name, name[:-4] + "0000")
    invented = await every_way_in(other, *made_up)
    for one, two in zip(real, invented, strict=True):
        assert one.reason == "RESOURCE_NOT_FOUND"
        assert (one.code, one.message.replace(name, made_up[0])) == (two.code, two.message)
    assert await list_names(other) == []
    assert len(world.model.model.requests) == 1


async def test_parent_of_another_tenant_is_refused(world: World) -> None:
    caller = world.caller("globex")
    for call in (
        caller.conversations.CreateConversation(pb.CreateConversationRequest(parent="tenants/acme")),
        caller.conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/acme")),
    ):
        assert (await refused(call)).reason == "TENANT_MISMATCH"


async def test_dash_stands_for_the_callers_own_tenant(world: World) -> None:
    caller = world.caller()
    created = await caller.conversations.CreateConversation(pb.CreateConversationRequest(parent="tenants/-"))
    name = created.conversation.name
    assert name.startswith("tenants/acme/conversations/")
    assert (await caller.conversation(name.replace("acme", "-"))).name == name


@pytest.mark.parametrize(
    "name", ["", "acme", "tenants/acme", "tenants/acme/conversations/", "tenants/acme/conversations/a/b"]
)
async def test_malformed_name_is_an_invalid_field(world: World, name: str) -> None:
    failure = await refused(world.caller().conversations.GetConversation(pb.GetConversationRequest(name=name)))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "name")


async def test_operator_without_a_tenant_owns_no_conversations(world: World) -> None:
    caller = world.caller(tenant="", principal="platform/bootstrap")
    call = caller.conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/-"))
    assert (await refused(call)).reason == "TENANT_MISMATCH"


async def test_missing_scope_is_refused(world: World) -> None:
    reader = world.caller(scopes=("conversations",))
    name = await reader.create()
    assert (await reader.send(name, "hi")).failure.metadata["scope"] == "generate"
    generator = world.caller(scopes=("generate",))
    assert (await generator.send(name, "hi")).failure.metadata["scope"] == "conversations"


async def test_identity_minted_for_another_method_is_refused(world: World) -> None:
    identity = world.pki.mint(["chat"], method="/redoma.chat.v1.ConversationService/GetConversation")
    stub = world.channel.unary_unary("/redoma.chat.v1.ConversationService/ListConversations")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(b"", metadata=(("redoma-identity", identity),), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_settings_are_kept_and_changed_by_mask(world: World) -> None:
    caller = world.caller()
    sampling = sampling_pb2.SamplingOptions(temperature=0.5, seed=0, stop=["a", "b"], logit_bias={5: -1.5})
    name = await caller.create(title="t", system_prompt="s", model="m", sampling=sampling)
    before = await caller.conversation(name)
    assert before.sampling == sampling
    wanted = pb.Conversation(name=name, title="", system_prompt="new", model="new")
    request = pb.UpdateConversationRequest(conversation=wanted, update_mask=FieldMask(paths=["title", "system_prompt"]))
    after = (await caller.conversations.UpdateConversation(request)).conversation
    assert (after.title, after.system_prompt, after.model, after.sampling) == ("", "new", "m", sampling)
    assert after.update_time.ToMicroseconds() > before.update_time.ToMicroseconds()
    request = pb.UpdateConversationRequest(conversation=pb.Conversation(name=name, title="set"))
    after = (await caller.conversations.UpdateConversation(request)).conversation
    assert (after.title, after.system_prompt) == ("set", "new")
    request = pb.UpdateConversationRequest(conversation=pb.Conversation(name=name), update_mask=FieldMask(paths=["*"]))
    after = (await caller.conversations.UpdateConversation(request)).conversation
    assert (after.title, after.system_prompt, after.model) == ("", "", "")


@pytest.mark.parametrize("path", ["name", "create_time", "nonsense", "sampling.temperature"])
async def test_mask_that_names_what_cannot_change_is_refused(world: World, path: str) -> None:
    caller = world.caller()
    wanted = pb.Conversation(name=await caller.create())
    request = pb.UpdateConversationRequest(conversation=wanted, update_mask=FieldMask(paths=[path]))
    failure = await refused(caller.conversations.UpdateConversation(request))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "update_mask")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"title": "x" * 201}, "conversation.title"),
        ({"system_prompt": "é" * 32_769}, "conversation.system_prompt"),
        ({"model": "x" * 201}, "conversation.model"),
        ({"title": "a\0b"}, "conversation.title"),
        ({"system_prompt": "a\0b"}, "conversation.system_prompt"),
        ({"sampling": sampling_pb2.SamplingOptions(temperature=float("nan"))}, "conversation.sampling.temperature"),
        ({"sampling": sampling_pb2.SamplingOptions(stop=[""])}, "conversation.sampling.stop"),
        ({"sampling": sampling_pb2.SamplingOptions(top_logprobs=3)}, "conversation.sampling.top_logprobs"),
    ],
)
async def test_setting_out_of_range_is_named(world: World, settings: dict[str, Any], field: str) -> None:
    request = pb.CreateConversationRequest(parent="tenants/-", conversation=pb.Conversation(**settings))
    failure = await refused(world.caller().conversations.CreateConversation(request))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)


async def test_retried_creation_makes_one_conversation_for_each_principal(world: World) -> None:
    caller, other = world.caller(), world.caller(principal="tenants/acme/apiKeys/two")
    request = pb.CreateConversationRequest(parent="tenants/-", request_id="again")
    made = await asyncio.gather(*(caller.conversations.CreateConversation(request) for _ in range(4)))
    assert len({response.conversation.name for response in made}) == 1
    assert len(await list_names(caller)) == 1
    theirs = await other.conversations.CreateConversation(request)
    assert theirs.conversation.name != made[0].conversation.name


async def test_pages_hold_every_conversation_once_also_when_some_are_added(world: World) -> None:
    caller = world.caller()
    names = [await caller.create() for _ in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        request = pb.ListConversationsRequest(parent="tenants/-", page_size=3, page_token=token)
        response = await caller.conversations.ListConversations(request)
        seen += [conversation.name for conversation in response.conversations]
        token = response.next_page_token
        if not token:
            break
        await caller.create(title="added between pages")
    assert seen == names[::-1]


@pytest.mark.parametrize("token", ["x", "eyJ9", "WyJhIiwxXQ", "W10", "\u00e9", "a" * 600, "bnVsbA"])
async def test_made_up_page_token_is_refused(world: World, token: str) -> None:
    request = pb.ListConversationsRequest(parent="tenants/-", page_token=token)
    failure = await refused(world.caller().conversations.ListConversations(request))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "page_token")


async def test_page_token_of_another_list_is_refused(world: World) -> None:
    caller = world.caller()
    for _ in range(2):
        await caller.create(title="x")
    conversations = caller.conversations
    token = (
        await conversations.ListConversations(pb.ListConversationsRequest(parent="tenants/-", page_size=1))
    ).next_page_token
    request = pb.ListConversationsRequest(parent="tenants/-", page_size=1, page_token=token, filter="x")
    assert (await refused(conversations.ListConversations(request))).metadata["field"] == "page_token"
    name = (await list_names(caller))[0]
    call = conversations.ListMessages(pb.ListMessagesRequest(parent=name, page_token=token))
    assert (await refused(call)).metadata["field"] == "page_token"


async def test_negative_page_size_is_refused(world: World) -> None:
    request = pb.ListConversationsRequest(parent="tenants/-", page_size=-1)
    failure = await refused(world.caller().conversations.ListConversations(request))
    assert failure.metadata["field"] == "page_size"


async def test_messages_come_in_pages_oldest_first(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    for index in range(3):
        await caller.send(name, f"q{index}")
    everything = await caller.messages(name)
    pages: list[Any] = []
    token = ""
    while token or not pages:
        request = pb.ListMessagesRequest(parent=name, page_size=4, page_token=token)
        response = await caller.conversations.ListMessages(request)
        pages += response.messages
        token = response.next_page_token
    assert pages == everything
    assert len(pages) == 6


async def test_filter_finds_words_in_titles_and_messages_whatever_their_case(world: World) -> None:
    caller = world.caller()
    world.model.model.script = (Say("Die Straße heißt ÉCOLE"), Finish())
    first = await caller.create(title="Groceries")
    await caller.send(first, "buy milk")
    second = await caller.create(title="100% sure_thing")
    assert await list_names(caller, filter="GROCERIES milk") == [first]
    assert await list_names(caller, filter="école STRASSE") == [first]
    assert await list_names(caller, filter="e\u0301cole") == [first]
    assert await list_names(caller, filter="milk nothing") == []
    assert await list_names(caller, filter="100%") == [second]
    assert await list_names(caller, filter="sure_") == [second]
    assert await list_names(caller, filter="%") == [second]
    assert await list_names(caller, filter="_____") == []
    assert await list_names(caller, filter="  ") == [second, first]
    assert await list_names(caller, filter="' OR 1=1 --") == []


async def test_filter_finds_a_dotted_capital_i_either_way(world: World) -> None:
    caller = world.caller()
    name = await caller.create(title="İstanbul")
    for words in ("istanbul", "İSTANBUL", "i\u0307stanbul"):
        assert await list_names(caller, filter=words) == [name]


async def test_filter_with_a_nul_is_refused_and_does_not_find_everything(world: World) -> None:
    request = pb.ListConversationsRequest(parent="tenants/-", filter="\0")
    failure = await refused(world.caller().conversations.ListConversations(request))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "filter")


async def test_filter_too_long_is_refused(world: World) -> None:
    request = pb.ListConversationsRequest(parent="tenants/-", filter="x" * 257)
    failure = await refused(world.caller().conversations.ListConversations(request))
    assert failure.metadata["field"] == "filter"


async def test_conversation_with_a_new_message_comes_first(world: World) -> None:
    caller = world.caller()
    first, second = await caller.create(), await caller.create()
    assert await list_names(caller) == [second, first]
    await caller.send(first, "hi")
    assert await list_names(caller) == [first, second]


async def test_delete_takes_the_messages_with_it(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    message = (await caller.send(name, "findme")).done.answer.name
    await caller.conversations.DeleteConversation(pb.DeleteConversationRequest(name=name))
    assert (await refused(caller.conversations.GetMessage(pb.GetMessageRequest(name=message)))).reason == (
        "RESOURCE_NOT_FOUND"
    )
    assert await list_names(caller, filter="findme") == []


async def test_conversations_outlive_the_process(world: World) -> None:
    caller = world.caller()
    name = await caller.create(title="kept")
    await caller.send(name, "hi")
    await world.restart_chat()
    caller = world.caller()
    assert (await caller.conversation(name)).title == "kept"
    assert [message.content for message in await caller.messages(name)] == ["hi", "Hello there"]
