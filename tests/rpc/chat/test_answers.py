"""SendMessage and ContinueMessage: what streams is saved, also when it is cut."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma.model.v1 import model_pb2
from tests.fakes.model_service import INPUT_TOKENS, Fail, Finish, Say, WaitFor
from tests.fakes.postgres import BACKENDS

from .conftest import Caller, World, eventually, failure_of

pytestmark = pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)

Message = message_pb2.Message


async def test_answer_streams_and_is_saved_with_usage_and_finish_reason(world: World) -> None:
    world.model.model.script = (Say(reasoning="hm "), Say("Hello"), Say(" 🦙"), Finish())
    caller = world.caller()
    name = await caller.create(system_prompt="be kind")
    answer = await caller.send(name, "Hi there\nsecond line")
    assert answer.error is None
    assert (answer.text, answer.reasoning) == ("Hello 🦙", "hm ")
    assert answer.started.user_message.content == "Hi there\nsecond line"
    assert answer.started.answer.state == Message.STATE_STREAMING
    assert answer.started.input_tokens == INPUT_TOKENS
    assert [delta.usage.output_tokens for delta in answer.deltas] == [1, 2, 3]
    saved = await caller.message(answer.done.answer.name)
    assert saved == answer.done.answer
    assert (saved.content, saved.reasoning, saved.state) == ("Hello 🦙", "hm ", Message.STATE_COMPLETE)
    assert saved.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert (saved.usage.output_tokens, saved.usage.reasoning_tokens, saved.usage.cached_input_tokens) == (3, 1, 3)
    assert saved.model == "fake-model"
    conversation = await caller.conversation(name)
    assert conversation.title == "Hi there"
    assert conversation.latest_message == saved.name
    (request,) = world.model.model.requests
    assert [(turn.role, turn.content) for turn in request.messages] == [
        (model_pb2.ROLE_SYSTEM, "be kind"),
        (model_pb2.ROLE_USER, "Hi there\nsecond line"),
    ]
    assert request.truncation == model_pb2.TRUNCATION_DROP_OLDEST


async def test_identity_request_id_and_deadline_reach_the_model(world: World) -> None:
    caller = world.caller()
    await caller.send(await caller.create(), "hi")
    (metadata,) = world.model.model.metadata
    assert str(metadata["redoma-identity"]).count(".") == 2
    assert metadata["x-request-id"]
    assert metadata["redoma-identity"] == world.meter.reserved[0][1]["redoma-identity"]


async def test_prompt_is_the_branch_and_never_holds_reasoning(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (Say(reasoning="secret thought"), Say("one"), Finish())
    first = await caller.send(name, "q1")
    second = await caller.send(name, "q2", parent=first.done.answer.name)
    # The edited second question is a branch: the former one is not in its prompt.
    edited = await caller.send(name, "q2 edited", parent=first.done.answer.name)
    contents = [turn.content for turn in world.model.model.requests[-1].messages]
    assert contents == ["q1", "one", "q2 edited"]
    messages = await caller.messages(name)
    assert len(messages) == 6
    places = {message.name: place for place, message in enumerate(messages)}
    assert all(places[message.parent_message] < places[message.name] for message in messages if message.parent_message)
    assert second.started.user_message.parent_message == edited.started.user_message.parent_message


async def test_answer_anew_is_a_sibling_of_the_first_answer(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    first = await caller.send(name, "q1")
    again = await caller.send(name, parent=first.started.user_message.name)
    assert again.started.user_message == first.started.user_message
    assert again.done.answer.name != first.done.answer.name
    assert again.done.answer.parent_message == first.done.answer.parent_message
    assert [turn.content for turn in world.model.model.requests[-1].messages] == ["q1"]


@pytest.mark.parametrize("parent", ["", "answer"])
async def test_empty_content_without_a_users_message_is_refused(world: World, parent: str) -> None:
    caller = world.caller()
    name = await caller.create()
    first = await caller.send(name, "q1")
    answer = await caller.send(name, parent=first.done.answer.name if parent else "")
    assert answer.failure.metadata["field"] == "content"


async def test_message_under_a_users_message_is_refused(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    first = await caller.send(name, "q1")
    answer = await caller.send(name, "q2", parent=first.started.user_message.name)
    assert (answer.failure.reason, answer.failure.metadata["field"]) == ("INVALID_FIELD", "parent_message")


async def test_parent_in_another_conversation_is_refused(world: World) -> None:
    caller = world.caller()
    first = await caller.send(await caller.create(), "q1")
    name = await caller.create()
    assert (await caller.send(name, "q2", parent=first.done.answer.name)).failure.reason == "INVALID_FIELD"
    forged = first.done.answer.name.replace(first.done.answer.name.split("/")[3], name.split("/")[3])
    assert (await caller.send(name, "q2", parent=forged)).failure.reason == "RESOURCE_NOT_FOUND"


async def test_request_sampling_overrides_the_conversations_field_by_field(world: World) -> None:
    caller = world.caller()
    name = await caller.create(sampling=sampling_pb2.SamplingOptions(temperature=0.5, top_k=7, stop=["x"]))
    await caller.send(name, "hi", sampling=sampling_pb2.SamplingOptions(temperature=0.0, seed=3))
    sampling = world.model.model.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, list(sampling.stop)) == (0.0, 7, 3, ["x"])


async def test_sampling_out_of_range_is_named(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    answer = await caller.send(name, "hi", sampling=sampling_pb2.SamplingOptions(top_p=2))
    assert answer.failure.metadata["field"] == "sampling.top_p"
    assert await caller.messages(name) == []


async def test_dropped_messages_are_reported(world: World) -> None:
    world.model.model.dropped = 4
    caller = world.caller()
    assert (await caller.send(await caller.create(), "hi")).started.dropped_messages == 4


async def cut(world: World, caller: Caller, name: str, text: str = "half") -> str:
    """Makes a PARTIAL answer by a client that goes away; gives its name."""
    world.model.model.script = (Say(text), WaitFor(asyncio.Event()))
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    answer = (await call.read()).started.answer.name
    assert (await call.read()).delta.text == text
    call.cancel()
    await eventually(lambda: is_settled(caller, answer))
    return str(answer)


async def is_settled(caller: Caller, name: str) -> bool:
    return (await caller.message(name)).state != Message.STATE_STREAMING


async def test_client_that_goes_away_cancels_the_model_and_keeps_what_it_saw(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    saved = await caller.message(await cut(world, caller, name))
    async with asyncio.timeout(20):
        await world.model.model.cancelled.wait()
    assert (saved.content, saved.state) == ("half", Message.STATE_PARTIAL)
    assert saved.finish_reason == usage_pb2.FINISH_REASON_CANCELLED
    assert saved.usage.output_tokens == 1


async def test_continue_extends_a_cut_answer_and_usage_adds_up(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    partial = await cut(world, caller, name)
    world.model.model.script = (Say(" done"), Finish())
    answer = await caller.extend(partial)
    assert answer.text == " done"
    assert answer.started.answer.content == "half"
    assert answer.deltas[0].usage.output_tokens == 1
    saved = await caller.message(partial)
    assert (saved.content, saved.state) == ("half done", Message.STATE_COMPLETE)
    assert (saved.usage.input_tokens, saved.usage.output_tokens) == (2 * INPUT_TOKENS, 2)
    request = world.model.model.requests[-1]
    assert request.continue_final_message
    assert [turn.content for turn in request.messages] == ["q", "half"]


async def test_continue_of_a_complete_answer_is_a_conflict(world: World) -> None:
    caller = world.caller()
    first = await caller.send(await caller.create(), "hi")
    for message in (first.done.answer.name, first.started.user_message.name):
        failure = (await caller.extend(message)).failure
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
        assert failure.metadata["state"] == "STATE_COMPLETE"


async def test_two_continuations_of_one_answer_do_not_mix(world: World) -> None:
    caller = world.caller()
    partial = await cut(world, caller, await caller.create())
    go = asyncio.Event()
    world.model.model.script = (Say(" more"), WaitFor(go), Finish())
    request = message_pb2.ContinueMessageRequest(message=partial)
    first = caller.chat.ContinueMessage(request)
    assert (await first.read()).started.answer.name == partial
    second = await caller.extend(partial)
    assert (second.failure.reason, second.failure.metadata["state"]) == ("STATE_CONFLICT", "STATE_STREAMING")
    go.set()
    rest = await caller.collect(first)
    assert rest.done.answer.content == "half more"


async def test_many_continuations_at_once_let_one_through(world: World) -> None:
    caller = world.caller()
    partial = await cut(world, caller, await caller.create())
    go = asyncio.Event()
    world.model.model.script = (WaitFor(go), Say(" more"), Finish())
    calls = [asyncio.create_task(caller.extend(partial)) for _ in range(6)]

    async def are_refused() -> bool:
        return sum(call.done() for call in calls) == 5

    await eventually(are_refused)
    go.set()
    answers = await asyncio.gather(*calls)
    assert sorted(answer.error is None for answer in answers) == [False] * 5 + [True]
    assert (await caller.message(partial)).content == "half more"


async def test_answer_to_a_streaming_answer_is_a_conflict(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    go = asyncio.Event()
    world.model.model.script = (Say("a"), WaitFor(go), Finish())
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    started = (await call.read()).started
    assert (await caller.send(name, "q2", parent=started.answer.name)).failure.reason == "STATE_CONFLICT"
    go.set()
    assert (await caller.collect(call)).done.answer.content == "a"


async def test_two_messages_at_once_are_two_branches(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    answers = await asyncio.gather(*(caller.send(name, f"q{index}") for index in range(4)))
    assert all(answer.error is None for answer in answers)
    assert len(await caller.messages(name)) == 8


async def test_length_is_partial_and_can_be_continued(world: World) -> None:
    caller = world.caller()
    world.model.model.script = (Say("a"), Finish("LENGTH"))
    answer = await caller.send(await caller.create(), "q")
    assert answer.done.answer.state == Message.STATE_PARTIAL
    assert answer.done.answer.finish_reason == usage_pb2.FINISH_REASON_LENGTH
    world.model.model.script = (Say("b"), Finish())
    assert (await caller.extend(answer.done.answer.name)).done.answer.content == "ab"


async def test_purge_of_the_tenant_mid_stream_interrupts_the_answer_and_keeps_it(world: World) -> None:
    caller = world.caller()
    world.model.model.script = (Say("half"), Fail(grpc.StatusCode.ABORTED, "TENANT_PURGED"))
    answer = await caller.send(await caller.create(), "q")
    assert (answer.failure.code, answer.failure.reason) == (grpc.StatusCode.ABORTED, "TENANT_PURGED")
    saved = await caller.message(answer.started.answer.name)
    assert (saved.content, saved.state) == ("half", Message.STATE_PARTIAL)
    assert saved.finish_reason == usage_pb2.FINISH_REASON_INTERRUPTED
    world.model.model.script = (Say(" whole"), Finish())
    assert (await caller.extend(saved.name)).done.answer.content == "half whole"


async def test_model_that_fails_mid_stream_leaves_a_partial_answer(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (Say("a"), Say("b"), Fail(grpc.StatusCode.INTERNAL, "GENERATION_FAILED"))
    answer = await caller.send(name, "q")
    assert answer.text == "ab"
    assert answer.done is None
    assert (answer.failure.code, answer.failure.reason) == (grpc.StatusCode.INTERNAL, "GENERATION_FAILED")
    saved = (await caller.messages(name))[-1]
    assert (saved.content, saved.state) == ("ab", Message.STATE_PARTIAL)
    assert saved.finish_reason == usage_pb2.FINISH_REASON_INTERRUPTED


async def test_model_killed_mid_stream_ends_the_answer_and_comes_back(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (Say("a"), WaitFor(asyncio.Event()))
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    partial = (await call.read()).started.answer.name
    await call.read()
    await world.model.stop()
    answer = await caller.collect(call)
    assert answer.failure.reason == "MODEL_UNREACHABLE"
    assert answer.failure.retry_after_s is not None
    assert (await caller.message(partial)).state == Message.STATE_PARTIAL
    world.model.model.script = (Say("b"), Finish())
    await world.model.start()

    async def continued() -> bool:
        return (await caller.extend(partial)).error is None

    await eventually(continued)
    assert (await caller.message(partial)).content == "ab"


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
async def test_status_of_something_on_the_way_is_model_unreachable(world: World, code: grpc.StatusCode) -> None:
    caller = world.caller()
    world.model.model.script = (Say("a"), Fail(code))
    failure = (await caller.send(await caller.create(), "q")).failure
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNREACHABLE")


async def test_stream_without_an_end_is_model_unreachable(world: World) -> None:
    caller = world.caller()
    world.model.model.script = (Say("a"),)
    assert (await caller.send(await caller.create(), "q")).failure.reason == "MODEL_UNREACHABLE"


async def test_unreachable_model_is_told_within_a_second_and_keeps_the_question(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    await caller.send(name, "warm the checks up")
    await world.model.stop()
    began = time.monotonic()
    answer = await caller.send(name, "q")
    assert time.monotonic() - began < 5.0
    assert (answer.failure.code, answer.failure.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNREACHABLE")
    assert answer.failure.retry_after_s is not None
    left = (await caller.messages(name))[2:]
    assert [(message.content, message.role) for message in left] == [("q", Message.ROLE_USER)]
    assert (await caller.conversation(name)).latest_message == left[0].name


async def test_model_that_does_not_send_headers_is_unreachable(world: World) -> None:
    caller = world.caller()
    world.model.model.holds_headers = True
    assert (await caller.send(await caller.create(), "q")).failure.reason == "MODEL_UNREACHABLE"


@pytest.mark.parametrize(
    ("code", "reason", "retry_s"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 7),
        (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG", 0),
        (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING", 1),
        (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 1),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", 0),
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID", 0),
    ],
)
async def test_refusal_of_the_model_passes_through_and_leaves_no_empty_answer(
    world: World, code: grpc.StatusCode, reason: str, retry_s: int
) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.before_start = (Fail(code, reason, (("field", "messages"),), retry_s),)
    failure = (await caller.send(name, "q")).failure
    assert (failure.code, failure.reason, failure.metadata["field"]) == (code, reason, "messages")
    assert failure.retry_after_s == (retry_s or None)
    assert [message.role for message in await caller.messages(name)] == [Message.ROLE_USER]


async def test_refused_continuation_leaves_the_answer_as_it_was(world: World) -> None:
    caller = world.caller()
    partial = await cut(world, caller, await caller.create())
    before = await caller.message(partial)
    world.model.model.before_start = (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),)
    assert (await caller.extend(partial)).failure.reason == "QUEUE_FULL"
    assert await caller.message(partial) == before


async def test_client_that_leaves_the_queue_leaves_no_empty_answer(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.before_start = (WaitFor(asyncio.Event()),)
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))

    async def is_queued() -> bool:
        return bool(world.model.model.requests)

    async def is_withdrawn() -> bool:
        return [message.role for message in await caller.messages(name)] == [Message.ROLE_USER]

    await eventually(is_queued)
    call.cancel()
    await eventually(is_withdrawn)


async def test_deadline_interrupts_the_answer_and_keeps_it(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    await caller.send(name, "warm up")
    world.model.model.script = (Say("a"), WaitFor(asyncio.Event()))
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"), timeout=1.5)
    answer = await caller.collect(call)
    assert answer.error is not None
    assert answer.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: is_settled(caller, answer.started.answer.name))
    saved = await caller.message(answer.started.answer.name)
    assert (saved.content, saved.finish_reason) == ("a", usage_pb2.FINISH_REASON_INTERRUPTED)


async def test_long_answer_is_checkpointed_while_it_streams(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    go = asyncio.Event()
    world.model.model.script = (*(Say("x") for _ in range(200)), WaitFor(go), Finish())
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    partial = (await call.read()).started.answer.name

    async def has_checkpoint() -> bool:
        message = await caller.message(partial)
        assert message.state == Message.STATE_STREAMING
        return len(message.content) >= 64

    await eventually(has_checkpoint)
    go.set()
    assert (await caller.collect(call)).done.answer.content == "x" * 200


async def test_replica_that_starts_leaves_the_others_answers_alone(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    go = asyncio.Event()
    world.model.model.script = (Say("x"), WaitFor(go), Finish())
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    answer = (await call.read()).started.answer.name
    first, channel = world.chat, world.channel
    await world.start_chat()
    assert (await world.caller().message(answer)).state == Message.STATE_STREAMING
    go.set()
    assert (await caller.collect(call)).done.answer.state == Message.STATE_COMPLETE
    await channel.close()
    await first.stop(0)


async def test_answer_of_a_killed_process_is_partial_when_its_lease_lapses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_chat.store.answers.LEASE_US", 500_000)
    monkeypatch.setattr("redoma_chat.checkpoints.RENEWAL_US", 10**12)
    monkeypatch.setattr("redoma_chat.checkpoints.LEASE_US", 500_000)
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (*(Say("x") for _ in range(64)), WaitFor(asyncio.Event()))
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    partial = (await call.read()).started.answer.name

    async def has_checkpoint() -> bool:
        return len((await caller.message(partial)).content) == 64

    async def is_partial() -> bool:
        return (await world.caller().message(partial)).state == Message.STATE_PARTIAL

    await eventually(has_checkpoint)
    # A second process on the same database finds what the first, killed one would have left.
    killed, channel = world.chat, world.channel
    await world.start_chat()
    await eventually(is_partial)
    saved = await world.caller().message(partial)
    assert len(saved.content) == 64
    assert saved.finish_reason == usage_pb2.FINISH_REASON_INTERRUPTED
    await channel.close()
    await killed.stop(0)


async def test_sigterm_lets_a_running_answer_end_and_refuses_new_ones(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    go = asyncio.Event()
    world.model.model.script = (Say("a"), WaitFor(go), Say("b"), Finish())
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    await call.read()
    await call.read()
    serving = asyncio.create_task(world.chat.grpc.serve_until_stopped())
    await asyncio.sleep(0)
    world.chat.grpc.request_stop()

    async def is_refusing() -> bool:
        try:
            await caller.conversation(name)
        except grpc.aio.AioRpcError as error:
            return failure_of(error).reason == "SHUTTING_DOWN"
        return False

    await eventually(is_refusing)
    go.set()
    answer = await caller.collect(call)
    assert answer.done.answer.content == "ab"
    async with asyncio.timeout(20):
        await serving


async def test_conversation_deleted_while_it_streams_ends_the_answer(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    go = asyncio.Event()
    world.model.model.script = (Say("a"), WaitFor(go), Finish())
    call = caller.chat.SendMessage(message_pb2.SendMessageRequest(conversation=name, content="q"))
    await call.read()
    await caller.conversations.DeleteConversation(conversation_pb2.DeleteConversationRequest(name=name))
    go.set()
    assert (await caller.collect(call)).failure.reason == "RESOURCE_NOT_FOUND"


async def test_content_of_the_largest_size_is_taken(world: World) -> None:
    caller = world.caller()
    answer = await caller.send(await caller.create(), "é" * 524_288)
    assert len((await caller.message(answer.started.user_message.name)).content) == 524_288


async def test_content_with_a_nul_is_refused(world: World) -> None:
    caller = world.caller()
    failure = (await caller.send(await caller.create(), "a\0b")).failure
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "content")


async def test_content_too_long_is_refused(world: World) -> None:
    caller = world.caller()
    failure = (await caller.send(await caller.create(), "é" * 524_289)).failure
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", "content")


async def test_prompts_and_answers_are_in_no_log_and_no_metric(world: World) -> None:
    marker = "xylophone-marker"
    world.model.model.script = (Say(marker), Say(reasoning=marker), Fail(grpc.StatusCode.INTERNAL))
    caller = world.caller()
    name = await caller.create(title=marker, system_prompt=marker)
    await caller.send(name, marker)
    await caller.send(name, marker, parent="tenants/acme/conversations/x/messages/y")
    request = conversation_pb2.ListConversationsRequest(parent="tenants/-", filter=marker)
    await caller.conversations.ListConversations(request)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.complete({"messages": [{"role": "user", "content": [{"type": marker}]}], "stop": [marker, 3]})
    await world.restart_chat()
    assert "SendMessage" in world.log_text.getvalue()
    assert marker not in world.log_text.getvalue()
    assert not any(marker in str(metric) for metric in world.chat.telemetry.registry.collect())


async def test_tokens_and_first_token_time_are_measured(world: World) -> None:
    caller = world.caller()
    await caller.send(await caller.create(), "q")
    registry: Any = world.chat.telemetry.registry
    labels = {"tenant": "acme", "direction": "output"}
    assert registry.get_sample_value("redoma_chat_tokens_total", labels) == 2
    assert registry.get_sample_value("redoma_chat_first_token_seconds_count") == 1
    assert registry.get_sample_value("redoma_chat_answers_running") == 0
