"""What a call uses is held before, told while it runs, and settled however it ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, ClassVar

import grpc
import pytest
import structlog
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import func, select

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.common.v1 import usage_pb2
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.tenant.v1 import meter_pb2
from redoma_chat.server import SCHEMA
from redoma_chat.tables import SETTLEMENTS
from redoma_kit.database import PLATFORM, Database
from tests.fakes.model_service import CONTEXT_TOKENS, INPUT_TOKENS, MODEL, Fail, Finish, Say, WaitFor
from tests.fakes.postgres import BACKENDS
from tests.rpc.chat.conftest import Caller, World, eventually, failure_of, refused

STOP, LENGTH = usage_pb2.FINISH_REASON_STOP, usage_pb2.FINISH_REASON_LENGTH
CANCELLED, INTERRUPTED = usage_pb2.FINISH_REASON_CANCELLED, usage_pb2.FINISH_REASON_INTERRUPTED
NEVER = asyncio.Event
BUDGET = Fail(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXCEEDED",
    (("limit", "tokens_per_month"), ("scope", "tenant"), ("limit_value", "1000"), ("remaining", "3")),
)
TOO_FAST = Fail(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXCEEDED",
    (("limit", "tokens_per_minute"), ("scope", "key"), ("limit_value", "600"), ("remaining", "12")),
    retry_s=7,
)


def question(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **more}


def at_limit(call: meter_pb2.RunningCall, known: int) -> meter_pb2.Verdict:
    """Grants no more."""
    verdict = meter_pb2.Verdict(
        granted_output_tokens=known,
        end=ErrorReason.ERROR_REASON_QUOTA_EXCEEDED,
        limit="tokens_per_month",
        scope="key",
        limit_value=1000,
    )
    return verdict if call.wanted_output_tokens else meter_pb2.Verdict(granted_output_tokens=known)


async def trailers_of(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return dict(caught.value.trailing_metadata() or ())


class TestReserving:
    async def test_call_holds_its_prompt_and_its_bound_for_its_own_identity(self, world: World) -> None:
        caller = world.caller()
        await caller.complete(question(max_tokens=7, model=MODEL))
        ((asked, metadata),) = world.meter.reserved
        assert (asked.model, asked.input_tokens, asked.max_output_tokens) == (MODEL, INPUT_TOKENS, 7)
        assert metadata["redoma-identity"] == world.model.model.metadata[0]["redoma-identity"]

    async def test_bound_beyond_the_context_window_holds_no_more_than_fits(self, world: World) -> None:
        await world.caller().complete(question(max_tokens=1_000_000))
        ((asked, _),) = world.meter.reserved
        assert asked.max_output_tokens == CONTEXT_TOKENS - INPUT_TOKENS

    async def test_prompt_that_loses_its_oldest_turns_holds_a_context_window_at_most(self, world: World) -> None:
        world.model.model.count = 100_000
        caller = world.caller()
        await caller.send(await caller.create(), "hi")
        ((asked, _),) = world.meter.reserved
        assert asked.input_tokens == CONTEXT_TOKENS

    async def test_prompt_that_a_check_has_counted_is_not_counted_again(self, world: World) -> None:
        world.tenant.tenant.checks.max_input_tokens = 100
        await world.caller().complete(question())
        assert len(world.model.model.count_requests) == 1
        assert world.meter.reserved[0][0].input_tokens == INPUT_TOKENS

    async def test_embedding_holds_bytes_of_texts_and_tokens_of_lists(self, world: World) -> None:
        await world.caller().embed({"input": [[1, 2, 3], [4, 5]]})
        await world.caller().embed({"input": "äöü"})
        tokens, text = (asked for asked, _ in world.meter.reserved)
        assert tokens.input_tokens == 5
        assert 6 <= text.input_tokens <= 16

    async def test_embedding_that_is_too_long_by_its_bytes_is_counted(self, world: World) -> None:
        refusing = asyncio.Event()
        reserve = world.meter.Reserve

        async def refuse_once(request: meter_pb2.ReserveRequest, context: Any) -> meter_pb2.ReserveResponse:
            world.meter.refusal = None if refusing.is_set() else TOO_FAST
            refusing.set()
            return await reserve(request, context)

        world.meter.Reserve = refuse_once  # type: ignore[method-assign]
        await world.tenant.stop()
        await world.tenant.start()
        world.model.model.count = 9
        assert json.loads(await world.caller().embed({"input": "x" * 500}))["data"]
        assert [asked.input_tokens for asked, _ in world.meter.reserved][1] < 20

    async def test_refusal_is_passed_on_whole_and_the_model_is_not_asked(self, world: World) -> None:
        world.meter.refusal = TOO_FAST
        caller = world.caller()
        answer = await caller.send(await caller.create(), "hi")
        assert answer.error is not None
        assert answer.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert answer.failure.reason == "QUOTA_EXCEEDED"
        assert answer.failure.metadata == dict(TOO_FAST.metadata)
        assert answer.failure.retry_after_s == 7
        assert not world.model.model.requests
        assert not world.meter.settled

    async def test_meter_that_is_away_lets_nothing_pass(self, world: World) -> None:
        world.meter.is_away = True
        failure = await refused(world.caller().complete(question()))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "QUOTA_UNAVAILABLE")
        assert failure.retry_after_s
        assert (await refused(world.caller().embed({"input": "hi"}))).reason == "QUOTA_UNAVAILABLE"
        assert not world.model.model.requests
        assert not world.model.model.embed_requests


class TestSettling:
    async def test_answer_is_settled_with_the_models_last_counts(self, world: World) -> None:
        caller = world.caller()
        await caller.send(await caller.create(), "hi")
        settled = await world.meter.only_settlement()
        counts = usage_pb2.Usage(input_tokens=INPUT_TOKENS, cached_input_tokens=3, output_tokens=2)
        assert settled.usage == counts
        assert (settled.exact, settled.finish_reason, settled.model, settled.tenant) == (True, STOP, MODEL, "acme")

    @pytest.mark.parametrize("streams", [False, True])
    async def test_completion_is_settled(self, world: World, streams: bool) -> None:
        await world.caller().complete(question(stream=streams))
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact, settled.finish_reason) == (2, True, STOP)

    async def test_embedding_is_settled(self, world: World) -> None:
        await world.caller().embed({"input": ["ab", [1, 2, 3]]})
        settled = await world.meter.only_settlement()
        assert (settled.usage.input_tokens, settled.usage.output_tokens, settled.exact) == (5, 0, True)

    async def test_client_that_goes_is_not_served_for_free(self, world: World) -> None:
        world.model.model.script = (Say("a"), Say("b"), WaitFor(NEVER()))
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question(stream=True)).encode()))
        for _ in range(3):
            await call.read()
        call.cancel()
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact, settled.finish_reason) == (2, False, CANCELLED)

    async def test_stream_that_breaks_is_left_to_the_models_journal(self, world: World) -> None:
        world.model.model.script = (Say("a"), Fail(grpc.StatusCode.INTERNAL))
        caller = world.caller()
        answer = await caller.send(await caller.create(), "hi")
        assert answer.failure.reason == "MODEL_UNREACHABLE"
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact, settled.finish_reason) == (1, False, INTERRUPTED)

    async def test_answer_that_a_check_ends_is_left_to_the_models_journal(self, world: World) -> None:
        world.tenant.tenant.checks.blocked_patterns.add(text="secret", action=1)
        world.model.model.script = (Say("a"), Say("secret"), WaitFor(NEVER()))
        await world.caller().complete(question(stream=True))
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact) == (2, False)
        assert settled.finish_reason == usage_pb2.FINISH_REASON_CONTENT_FILTER

    async def test_call_that_the_model_refuses_lets_go_at_once(self, world: World) -> None:
        world.model.model.before_start = (Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),)
        assert (await refused(world.caller().complete(question()))).reason == "QUEUE_FULL"
        settled = await world.meter.only_settlement()
        assert settled.exact
        assert settled.usage == usage_pb2.Usage()

    async def test_call_that_the_model_never_heard_of_lets_go_at_once(self, world: World) -> None:
        caller = world.caller()
        world.meter.holds = asyncio.Event()
        call = asyncio.ensure_future(caller.complete(question()))
        await world.meter.until(lambda: bool(world.meter.reserved))
        await world.model.stop()
        world.meter.holds.set()
        assert (await refused(call)).reason == "MODEL_UNREACHABLE"
        settled = await world.meter.only_settlement()
        assert settled.exact
        assert settled.usage == usage_pb2.Usage()

    async def test_caller_that_goes_while_the_meter_thinks_holds_nothing(self, world: World) -> None:
        world.meter.holds = asyncio.Event()
        caller = world.caller()
        call = caller.openai.CreateChatCompletion(HttpBody(data=json.dumps(question()).encode()))
        await world.meter.until(lambda: bool(world.meter.reserved))
        call.cancel()
        settled = await world.meter.only_settlement()
        assert settled.exact
        assert settled.usage == usage_pb2.Usage()
        assert not world.model.model.requests


@pytest.mark.parametrize("chat_database_url", BACKENDS, indirect=True)
class TestOutbox:
    async def test_meter_that_is_away_gets_settlements_when_it_is_back(self, world: World) -> None:
        go_on = asyncio.Event()
        world.model.model.script = (Say("a"), WaitFor(go_on), Finish())
        caller = world.caller()
        conversation = await caller.create()
        answers = [asyncio.ensure_future(caller.send(conversation, "hi"))]
        answers.append(asyncio.ensure_future(caller.complete(question())))  # type: ignore[arg-type]
        await world.meter.until(lambda: len(world.meter.reserved) == 2)
        world.meter.is_away = True
        go_on.set()
        await asyncio.gather(*answers)
        assert not world.meter.settled
        await world.restart_chat()
        world.meter.is_away = False
        await world.meter.until(lambda: len(world.meter.settled) == 2)
        assert all(one.exact and one.usage.output_tokens == 1 for one in world.meter.settled.values())

    async def test_answers_settlement_is_kept_with_it_while_nobody_takes_it(self, world: World) -> None:
        go_on = asyncio.Event()
        world.model.model.script = (Say("a"), WaitFor(go_on), Finish())
        caller = world.caller()
        conversation = await caller.create()
        answer = asyncio.ensure_future(caller.send(conversation, "hi"))
        await world.meter.until(lambda: bool(world.meter.reserved))
        world.meter.is_away = True
        go_on.set()
        await answer
        assert await outbox_rows(world) == 1
        world.meter.is_away = False
        await world.meter.until(lambda: bool(world.meter.settled))

    async def test_settlement_of_a_deleted_conversation_is_kept_too(self, world: World) -> None:
        go_on = asyncio.Event()
        world.model.model.script = (Say("a"), WaitFor(go_on), Finish())
        caller = world.caller()
        conversation = await caller.create()
        answer = asyncio.ensure_future(caller.send(conversation, "hi"))
        await world.meter.until(lambda: bool(world.meter.reserved))
        await caller.conversations.DeleteConversation(conversation_pb2.DeleteConversationRequest(name=conversation))
        go_on.set()
        await answer
        assert (await world.meter.only_settlement()).usage.output_tokens == 1


async def outbox_rows(world: World) -> int:
    """Counts what waits in the outbox."""
    database = Database(world.settings.database_url, structlog.stdlib.get_logger(), SCHEMA)
    try:
        async with database.transaction(PLATFORM) as session:
            return (await session.execute(select(func.count()).select_from(SETTLEMENTS))).scalar_one()
    finally:
        await database.close()


class TestRunning:
    @pytest.fixture
    def long_answer(self, world: World) -> int:
        world.model.model.script = (*(Say(f"{n} ") for n in range(900)), Finish())
        return 900

    async def test_answer_without_a_bound_is_granted_more_before_it_needs_it(
        self, world: World, long_answer: int
    ) -> None:
        gate = asyncio.Event()
        words = tuple(Say(f"{n} ") for n in range(long_answer))
        world.model.model.script = (*words[:500], WaitFor(gate), *words[500:], Finish())
        world.meter.granted = 600
        caller = world.caller()
        answer = asyncio.ensure_future(caller.send(await caller.create(), "hi"))
        await world.meter.until(lambda: any(call.wanted_output_tokens for call in world.meter.checkpoints))

        async def granted_more() -> bool:
            return len(world.model.model.grants) > 1

        await eventually(granted_more)
        gate.set()
        done = await answer
        assert world.meter.reserved[0][0].max_output_tokens == 0
        assert world.model.model.grants[0] == 600
        assert world.model.model.grants[1] > 900
        assert done.done.answer.usage.output_tokens == long_answer
        assert (await world.meter.only_settlement()).usage.output_tokens == long_answer

    async def test_answer_ends_at_the_limit_and_never_behind_it(self, world: World, long_answer: int) -> None:
        world.meter.granted = 600
        world.meter.judge = at_limit
        caller = world.caller()
        conversation = await caller.create()
        answer = await caller.send(conversation, "hi")
        assert answer.failure.reason == "QUOTA_EXCEEDED"
        assert answer.failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert answer.failure.metadata["limit"] == "tokens_per_month"
        assert answer.failure.metadata["scope"] == "key"
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact) == (600, True)
        kept = (await caller.messages(conversation))[-1]
        assert message_pb2.Message.State.Name(kept.state) == "STATE_PARTIAL"
        assert kept.content == answer.text
        assert kept.usage.output_tokens == 600

    async def test_openais_stream_says_that_the_quota_is_used_up(self, world: World, long_answer: int) -> None:
        world.meter.granted = 20
        world.meter.judge = at_limit
        body = HttpBody(data=json.dumps(question(stream=True)).encode())
        chunks: list[bytes] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for chunk in world.caller().openai.CreateChatCompletion(body):
                chunks.append(chunk.data)
        assert failure_of(caught.value).reason == "QUOTA_EXCEEDED"
        error = json.loads(chunks[-1].removeprefix(b"data: "))["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")

    async def test_cut_answer_waits_for_the_meters_word(self, world: World, long_answer: int) -> None:
        world.meter.granted = 20

        def away(call: meter_pb2.RunningCall, known: int) -> meter_pb2.Verdict:
            world.meter.is_away = True
            return meter_pb2.Verdict(granted_output_tokens=known)

        world.meter.judge = away
        failure = await refused(world.caller().complete(question(stream=True)))
        assert failure.reason == "QUOTA_UNAVAILABLE"

    async def test_bounded_answer_is_asked_for_at_once_and_whole(self, world: World, long_answer: int) -> None:
        world.meter.judge = at_limit
        await world.caller().complete(question(max_tokens=50))
        assert not world.model.model.grants
        assert world.model.model.requests[0].sampling == SamplingOptions(max_output_tokens=50)

    async def test_limit_that_lets_answers_finish_grants_without_end(self, world: World, long_answer: int) -> None:
        world.meter.granted = -1
        caller = world.caller()
        answer = await caller.send(await caller.create(), "hi")
        assert answer.done.answer.usage.output_tokens == long_answer
        assert not world.model.model.grants

    async def test_call_whose_lease_can_not_be_renewed_ends(self, world: World) -> None:
        world.meter.lease_s = 2.5
        world.model.model.script = (Say("a"), WaitFor(NEVER()))
        caller = world.caller()
        answer = asyncio.ensure_future(caller.send(await caller.create(), "hi"))
        await world.meter.until(lambda: bool(world.meter.reserved))
        world.meter.is_away = True
        assert (await answer).failure.reason == "QUOTA_UNAVAILABLE"
        await asyncio.wait_for(world.model.model.cancelled.wait(), 5)

    async def test_running_call_is_kept_from_lapsing(self, world: World) -> None:
        gate = asyncio.Event()
        world.meter.lease_s = 3
        world.model.model.script = (Say("a"), WaitFor(gate), Finish())
        caller = world.caller()
        answer = asyncio.ensure_future(caller.send(await caller.create(), "hi"))
        await world.meter.until(lambda: len(world.meter.checkpoints) == 2)
        assert world.meter.checkpoints[-1].usage.output_tokens == 1
        gate.set()
        assert (await answer).error is None

    async def test_call_for_which_nothing_is_held_ends(self, world: World) -> None:
        world.model.model.script = (Say("a"), WaitFor(NEVER()))
        world.meter.judge = lambda call, known: meter_pb2.Verdict(end=ErrorReason.ERROR_REASON_RESOURCE_NOT_FOUND)
        caller = world.caller()
        assert (await caller.send(await caller.create(), "hi")).failure.reason == "QUOTA_UNAVAILABLE"


class TestRevoking:
    @pytest.fixture
    async def running(self, world: World) -> AsyncIterator[tuple[Caller, Any]]:
        """A caller with an answer that would go on for ever."""
        world.model.model.script = (Say("a"), WaitFor(NEVER()))
        await world.meter.until(lambda: bool(world.meter.watched))
        caller = world.caller()
        request = message_pb2.SendMessageRequest(conversation=await caller.create(), content="hi")
        call = caller.chat.SendMessage(request)
        assert (await call.read()).HasField("started")
        assert (await call.read()).HasField("delta")
        yield caller, call
        call.cancel()

    @pytest.mark.parametrize(
        ("reason", "code"),
        [
            ("CREDENTIAL_REVOKED", grpc.StatusCode.UNAUTHENTICATED),
            ("CREDENTIAL_EXPIRED", grpc.StatusCode.UNAUTHENTICATED),
            ("TENANT_DISABLED", grpc.StatusCode.PERMISSION_DENIED),
        ],
    )
    async def test_running_call_ends_within_a_second(
        self, world: World, running: tuple[Caller, Any], reason: str, code: grpc.StatusCode
    ) -> None:
        caller, call = running
        begun = time.monotonic()
        await world.meter.revoke("acme", reason=reason)
        answer = await caller.collect(call)
        assert time.monotonic() - begun < 1
        assert (answer.failure.code, answer.failure.reason) == (code, reason)
        settled = await world.meter.only_settlement()
        assert (settled.usage.output_tokens, settled.exact, settled.finish_reason) == (1, False, INTERRUPTED)

    async def test_others_go_on(self, world: World, running: tuple[Caller, Any]) -> None:
        _, call = running
        await world.meter.revoke("globex")
        await world.meter.revoke("acme", "tenants/acme/apiKeys/two")
        await world.meter.until(lambda: bool(world.meter.checkpoints))
        assert not call.done()
        await world.meter.revoke("acme", "tenants/acme/apiKeys/one")
        assert (await running[0].collect(call)).failure.reason == "CREDENTIAL_REVOKED"

    async def test_what_was_revoked_while_the_watch_was_broken_is_not_missed(
        self, world: World, running: tuple[Caller, Any]
    ) -> None:
        caller, call = running
        await world.tenant.stop()
        await world.meter.revoke("acme")
        await world.tenant.start()
        assert (await caller.collect(call)).failure.reason == "CREDENTIAL_REVOKED"
        assert world.meter.watched[-1] > 0

    async def test_openais_stream_is_told_why(self, world: World, running: tuple[Caller, Any]) -> None:
        call = running[0].openai.CreateChatCompletion(HttpBody(data=json.dumps(question(stream=True)).encode()))
        for _ in range(2):
            await call.read()
        await world.meter.revoke("acme")
        error = json.loads((await call.read()).data.removeprefix(b"data: "))["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")

    async def test_reader_who_takes_nothing_ends_too(self, world: World) -> None:
        world.model.model.script = (*(Say("x" * 100_000) for _ in range(200)), WaitFor(NEVER()))
        await world.meter.until(lambda: bool(world.meter.watched))
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question(stream=True)).encode()))
        await call.read()
        await world.meter.until(lambda: bool(world.meter.checkpoints))
        await world.meter.revoke("acme")
        settled = await world.meter.only_settlement()
        assert not settled.exact
        call.cancel()


class TestHeaders:
    LIMITS = meter_pb2.RateLimits(
        requests=meter_pb2.RateLimit(limit=60, remaining=59), tokens=meter_pb2.RateLimit(limit=1000, remaining=850)
    )
    HEADERS: ClassVar[dict[str, str]] = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "850",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    @pytest.fixture(autouse=True)
    def limited(self, world: World) -> None:
        world.meter.rate_limits = meter_pb2.RateLimits()
        world.meter.rate_limits.CopyFrom(self.LIMITS)
        world.meter.rate_limits.requests.reset.FromSeconds(1)
        world.meter.rate_limits.tokens.reset.FromSeconds(360)

    @pytest.mark.parametrize("streams", [False, True])
    async def test_answers_say_how_limits_stand(self, world: World, streams: bool) -> None:
        body = HttpBody(data=json.dumps(question(stream=streams)).encode())
        call = world.caller().openai.CreateChatCompletion(body)
        headers = dict(await call.initial_metadata())
        assert self.HEADERS.items() <= headers.items()

    async def test_embeddings_and_grpc_callers_are_told_too(self, world: World) -> None:
        caller = world.caller()
        embedding = caller.openai.CreateEmbedding(HttpBody(data=b'{"input": "hi"}'))
        assert self.HEADERS.items() <= dict(await embedding.initial_metadata()).items()
        request = message_pb2.SendMessageRequest(conversation=await caller.create(), content="hi")
        assert self.HEADERS.items() <= dict(await caller.chat.SendMessage(request).initial_metadata()).items()

    async def test_limits_that_are_not_set_have_no_headers(self, world: World) -> None:
        world.meter.rate_limits = meter_pb2.RateLimits()
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question()).encode()))
        assert not [name for name in dict(await call.initial_metadata()) if name.startswith("x-ratelimit")]

    async def test_refusal_by_the_minute_says_when_to_come_back(self, world: World) -> None:
        world.meter.refusal = TOO_FAST
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question()).encode()))
        trailers = await trailers_of(call)
        assert trailers["retry-after"] == "7"
        assert trailers["x-ratelimit-limit-tokens"] == "600"
        assert trailers["x-ratelimit-remaining-tokens"] == "12"
        assert trailers["x-ratelimit-reset-tokens"] == "7s"
        assert "x-should-retry" not in trailers
        assert '"type":"tokens"' in trailers["redoma-openai-error"]
        assert '"code":"rate_limit_exceeded"' in trailers["redoma-openai-error"]

    async def test_refusal_by_the_month_says_how_the_limit_stands(self, world: World) -> None:
        world.meter.refusal = replace(TOO_FAST, metadata=(("limit", "tokens_per_month"), *TOO_FAST.metadata[1:]))
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question()).encode()))
        trailers = await trailers_of(call)
        assert (trailers["x-ratelimit-limit-tokens"], trailers["x-ratelimit-remaining-tokens"]) == ("600", "12")
        assert trailers["x-should-retry"] == "false"

    async def test_budget_that_is_used_up_is_not_tried_again(self, world: World) -> None:
        world.meter.refusal = BUDGET
        call = world.caller().openai.CreateChatCompletion(HttpBody(data=json.dumps(question()).encode()))
        trailers = await trailers_of(call)
        assert trailers["x-should-retry"] == "false"
        assert "retry-after" not in trailers
        assert '"code":"insufficient_quota"' in trailers["redoma-openai-error"]

    async def test_quota_failure_comes_with_the_status(self, world: World) -> None:
        world.meter.granted = 5
        world.meter.judge = at_limit
        world.model.model.script = (*(Say("x") for _ in range(20)), Finish())
        caller = world.caller()
        answer = await caller.send(await caller.create(), "hi")
        assert answer.error is not None
        details = dict(answer.error.trailing_metadata() or ())["grpc-status-details-bin"]
        kinds = [detail.TypeName() for detail in status_pb2.Status.FromString(details).details]  # type: ignore[arg-type]
        assert error_details_pb2.QuotaFailure.DESCRIPTOR.full_name in kinds
