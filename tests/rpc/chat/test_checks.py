"""The checks of a tenant, on what goes in and on what comes out."""

import asyncio

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.common.v1 import usage_pb2
from redoma.tenant.v1 import tenant_pb2
from tests.fakes.model_service import CONTEXT_TOKENS, Finish, Say, WaitFor

from .conftest import World, eventually, refused

Pattern = tenant_pb2.BlockedPattern
REFUSE, MASK = Pattern.ACTION_REFUSE, Pattern.ACTION_MASK
Message = message_pb2.Message


def block(world: World, **patterns: int) -> None:
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(
        blocked_patterns=[Pattern(text=text, action=action) for text, action in patterns.items()]  # type: ignore[arg-type]
    )


async def test_input_with_a_refused_text_reaches_neither_model_nor_store(world: World) -> None:
    block(world, swordfish=REFUSE)
    caller = world.caller()
    name = await caller.create()
    failure = (await caller.send(name, "the SwordFish is here")).failure
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INPUT_REFUSED")
    assert failure.metadata["check"] == "blocked_patterns"
    assert "swordfish" not in failure.message.lower()
    assert world.model.model.requests == []
    assert await caller.messages(name) == []


async def test_refused_text_in_the_system_prompt_counts(world: World) -> None:
    block(world, swordfish=REFUSE)
    caller = world.caller()
    name = await caller.create(system_prompt="say swordfish")
    assert (await caller.send(name, "hi")).failure.reason == "INPUT_REFUSED"


async def test_masked_input_is_masked_for_the_model_and_in_the_store(world: World) -> None:
    block(world, acme=MASK)
    caller = world.caller()
    name = await caller.create()
    answer = await caller.send(name, "Acme and ACME")
    assert answer.started.user_message.content == "[masked] and [masked]"
    assert world.model.model.requests[0].messages[0].content == "[masked] and [masked]"
    assert (await caller.messages(name))[0].content == "[masked] and [masked]"


async def test_refused_text_across_deltas_ends_the_answer_before_it(world: World) -> None:
    block(world, swordfish=REFUSE)
    never = asyncio.Event()
    world.model.model.script = (Say("I say Sw"), Say("ord"), Say("fish"), Say("!"), WaitFor(never))
    caller = world.caller()
    answer = await caller.send(await caller.create(), "q")
    assert answer.error is None
    assert answer.text == "I say "
    assert answer.done.answer.content == "I say "
    assert answer.done.answer.finish_reason == usage_pb2.FINISH_REASON_CONTENT_FILTER
    assert answer.done.answer.state == Message.STATE_COMPLETE
    assert answer.done.answer.usage.output_tokens == 3
    async with asyncio.timeout(20):
        await world.model.model.cancelled.wait()


async def test_masked_text_across_deltas_and_in_the_reasoning(world: World) -> None:
    block(world, swordfish=MASK)
    world.model.model.script = (
        Say(reasoning="think sword"),
        Say(reasoning="fish sw"),
        Say("a SWORD"),
        Say("FISH"),
        Say(" sword"),
        Finish(),
    )
    caller = world.caller()
    answer = await caller.send(await caller.create(), "q")
    assert answer.reasoning == "think [masked] sw"
    assert answer.text == "a [masked] sword"
    assert (answer.done.answer.content, answer.done.answer.reasoning) == (answer.text, answer.reasoning)


async def test_refused_text_in_the_reasoning_ends_the_answer(world: World) -> None:
    block(world, swordfish=REFUSE)
    world.model.model.script = (Say(reasoning="a swordf"), Say(reasoning="ish"), Say("never"), Finish())
    caller = world.caller()
    answer = await caller.send(await caller.create(), "q")
    assert (answer.reasoning, answer.text) == ("a ", "")
    assert answer.done.answer.finish_reason == usage_pb2.FINISH_REASON_CONTENT_FILTER


@pytest.mark.parametrize(("action", "content"), [(REFUSE, "say sword"), (MASK, "say sword[masked]!")])
async def test_text_across_a_continuation_does_not_pass(world: World, action: int, content: str) -> None:
    block(world, swordfish=action)
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (Say("say sword"), Finish("LENGTH"))
    partial = (await caller.send(name, "q")).done.answer
    assert partial.content == "say sword"
    world.model.model.script = (Say("fish!"), Finish())
    assert (await caller.extend(partial.name)).done.answer.content == content


async def test_text_held_back_at_a_cut_is_not_saved(world: World) -> None:
    block(world, swordfish=REFUSE)
    world.model.model.script = (Say("say sword"), WaitFor(asyncio.Event()))
    caller = world.caller()
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=await caller.create(), content="q"))
    name = (await call.read()).started.answer.name
    assert (await call.read()).delta.text == "say "
    call.cancel()

    async def is_settled() -> bool:
        return (await caller.message(name)).state == Message.STATE_PARTIAL

    await eventually(is_settled)
    assert (await caller.message(name)).content == "say "


async def test_too_many_input_tokens_are_refused(world: World) -> None:
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(max_input_tokens=100)
    world.model.model.count = 101
    caller = world.caller()
    name = await caller.create(system_prompt="s")
    failure = (await caller.send(name, "hi")).failure
    assert (failure.reason, failure.metadata["check"]) == ("INPUT_REFUSED", "max_input_tokens")
    assert "101" in failure.message
    assert "100" in failure.message
    assert [turn.content for turn in world.model.model.count_requests[0].messages] == ["s", "hi"]
    world.model.model.count = 100
    assert (await caller.send(name, "hi")).error is None


async def test_prompt_that_will_be_truncated_counts_as_the_window(world: World) -> None:
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(max_input_tokens=CONTEXT_TOKENS)
    world.model.model.count = 3 * CONTEXT_TOKENS
    caller = world.caller()
    assert (await caller.send(await caller.create(), "hi")).error is None
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.complete({"messages": [{"role": "user", "content": "hi"}]})


async def test_checks_hold_for_the_openai_facade(world: World) -> None:
    block(world, swordfish=REFUSE, sesame=MASK)
    caller = world.caller()
    messages = [{"role": "user", "content": "hi"}]
    failure = await refused(caller.complete({"messages": [{"role": "user", "content": "SWORDFISH"}]}))
    assert failure.reason == "INPUT_REFUSED"
    world.model.model.script = (Say("open ses"), Say("ame sword"), Say("fish"), Finish())
    _, chunks = await caller.complete({"messages": messages, "stream": True})
    body = b"".join(chunks)
    assert b"sesame" not in body
    assert b"fish" not in body
    assert b'"finish_reason":"content_filter"' in body
    # Log probabilities would spell out what is held back.
    failure = await refused(caller.complete({"messages": messages, "logprobs": True}))
    assert failure.metadata["field"] == "logprobs"


async def test_tenant_service_down_fails_closed(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    await world.restart_chat()
    caller = world.caller()
    await world.tenant.stop()
    failure = (await caller.send(name, "hi")).failure
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert failure.retry_after_s is not None
    assert world.model.model.requests == []


async def test_tenant_service_that_errs_fails_closed(world: World) -> None:
    world.tenant.tenant.fails = True
    caller = world.caller()
    assert (await refused(caller.complete({"messages": [{"role": "user", "content": "x"}]}))).reason == (
        "STORAGE_UNAVAILABLE"
    )


async def test_fresh_checks_are_used_without_asking_again_and_per_tenant(world: World) -> None:
    caller, other = world.caller("acme"), world.caller("globex")
    name = await caller.create()
    await caller.send(name, "hi")
    world.tenant.tenant.fails = True
    assert (await caller.send(name, "hi")).error is None
    assert len(world.tenant.tenant.asked) == 1
    # What is known of one tenant says nothing of another.
    creation = conversation_pb2.CreateConversationRequest(parent="tenants/-")
    assert (await refused(other.conversations.CreateConversation(creation))).reason == "STORAGE_UNAVAILABLE"
