"""What chat tells the egress of each call, and what it makes of an egress that fails it."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from redoma.common.v1 import usage_pb2
from redoma.tenant.v1 import meter_pb2
from redoma_chat.model_channel import PASSAGES_A_CALL
from tests.fakes.model_service import Fail, Finish, Say

from .conftest import Answer, Caller, World

Code = grpc.StatusCode
UNREACHABLE = (Code.UNAVAILABLE, "MODEL_UNREACHABLE")
NOWHERE = "no healthy upstream"
RESET = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
OVERFLOW = "upstream connect error or disconnect/reset before headers. reset reason: overflow"
REFUSED = (
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport "
    "failure reason: delayed connect error: Connection refused"
)
# A cut tunnel shows in the middle of a stream as the reset that it is.
CUT = Fail(Code.INTERNAL, message="Received RST_STREAM with error code 2")
ASK = {"role": "user", "content": "What is a redoma?"}


def said(world: World, key: str) -> list[str]:
    """Gives what the calls that stream or embed carried under a key; an empty text where one had none."""
    return [str(metadata.get(key, "")) for metadata in world.model.model.metadata]


async def test_all_answers_of_a_conversation_go_one_way(world: World) -> None:
    caller = world.caller()
    name, other = await caller.create(), await caller.create()
    first = await caller.send(name, "one")
    await caller.send(name, "two", parent=first.done.answer.name)
    await caller.send(name, "another branch")
    await caller.send(other, "one")
    keys = said(world, "redoma-affinity")
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2
    assert all(keys)
    assert name.rpartition("/")[2] not in keys
    assert said(world, "redoma-tenant") == [""] * 4


async def test_turns_of_a_chat_that_the_client_keeps_go_one_way(world: World) -> None:
    turns: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}, ASK]
    more = [*turns, {"role": "assistant", "content": "A dome."}, {"role": "user", "content": "Why?"}]
    for tenant, messages in (("acme", turns), ("acme", more), ("acme", [ASK]), ("globex", turns)):
        await world.caller(tenant).complete({"messages": messages})
    keys = said(world, "redoma-affinity")
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


async def test_embeddings_go_anywhere(world: World) -> None:
    await world.caller().embed({"input": "hello"})
    assert said(world, "redoma-affinity") == [""]


async def test_a_tenant_with_a_model_of_its_own_is_named_in_each_call(world: World) -> None:
    caller = world.caller("globex", isolation="DEDICATED")
    await caller.send(await caller.create(), "hello")
    await caller.embed({"input": "hello"})
    assert said(world, "redoma-tenant") == ["globex", "globex"]


async def test_what_a_caller_sends_of_these_goes_no_further(world: World) -> None:
    identity = world.pki.mint(["chat", "model", "tenant"], method="/redoma.chat.v1.OpenAIService/CreateChatCompletion")
    forged = (("redoma-affinity", "f" * 16), ("redoma-tenant", "globex"), ("redoma-replica", "hospital-a.model-0"))
    call: Any = world.channel.unary_stream(
        "/redoma.chat.v1.OpenAIService/CreateChatCompletion",
        HttpBody.SerializeToString,
        HttpBody.FromString,
    )
    body = HttpBody(content_type="application/json", data=b'{"messages": [{"role": "user", "content": "hi"}]}')
    _ = [piece async for piece in call(body, metadata=(("redoma-identity", identity), *forged), timeout=30)]
    assert said(world, "redoma-tenant") == said(world, "redoma-replica") == [""]
    assert said(world, "redoma-affinity") != ["f" * 16]


def check_unreachable(answer: Answer) -> None:
    """Checks that a caller is told to try again."""
    failure = answer.failure
    assert (failure.code, failure.reason) == UNREACHABLE
    assert failure.retry_after_s is not None
    assert "reset reason" not in failure.message


async def asked(world: World, caller: Caller) -> tuple[Answer, meter_pb2.Settlement]:
    """Asks, and gives the answer and what was settled of it."""
    answer = await caller.send(await caller.create(), "q")
    return answer, await world.meter.only_settlement()


@pytest.mark.parametrize("said", [NOWHERE, REFUSED, OVERFLOW])
async def test_a_call_that_went_nowhere_is_to_be_tried_again_and_free(world: World, said: str) -> None:
    world.model.model.before_start = (Fail(Code.UNAVAILABLE, message=said),)
    answer, settled = await asked(world, world.caller())
    check_unreachable(answer)
    assert (settled.exact, settled.usage) == (True, usage_pb2.Usage())


@pytest.mark.parametrize(
    "failure",
    [
        Fail(Code.UNAVAILABLE, message=RESET),
        Fail(Code.INTERNAL, message="Received RST_STREAM with error code 2"),
        Fail(Code.CANCELLED),
        Fail(Code.UNIMPLEMENTED),
        Fail(Code.UNKNOWN, message=NOWHERE),
    ],
    ids=lambda failure: failure.code.name,
)
async def test_a_call_that_may_have_arrived_is_left_to_the_models_journal(world: World, failure: Fail) -> None:
    world.model.model.before_start = (failure,)
    answer, settled = await asked(world, world.caller())
    check_unreachable(answer)
    assert not settled.exact


@pytest.mark.parametrize(
    "failure", [CUT, Fail(Code.UNAVAILABLE, message=RESET), Fail(Code.CANCELLED)], ids=lambda it: it.code.name
)
async def test_a_stream_that_is_cut_keeps_what_came_and_is_charged_in_part(world: World, failure: Fail) -> None:
    caller = world.caller()
    world.model.model.script = (Say("half"), failure)
    answer, settled = await asked(world, caller)
    check_unreachable(answer)
    assert answer.text == "half"
    assert (settled.usage.output_tokens, settled.exact) == (1, False)
    world.model.model.script = (Say(" whole"), Finish())
    assert (await caller.extend(answer.started.answer.name)).done.answer.content == "half whole"


async def test_what_the_model_itself_says_is_told_apart_from_a_cut_stream(world: World) -> None:
    caller = world.caller()
    for reason, expected in (("GENERATION_FAILED", "GENERATION_FAILED"), ("INTERNAL", "INTERNAL")):
        world.model.model.script = (Say("half"), Fail(Code.INTERNAL, reason, message=CUT.message))
        failure = (await caller.send(await caller.create(), "q")).failure
        assert (failure.code, failure.reason) == (Code.INTERNAL, expected)


class FromTheSecondCall(list[Any]):
    """Steps that the first call of Embed is spared."""

    calls = 0

    def __iter__(self) -> Iterator[Any]:
        self.calls += 1
        return super().__iter__() if self.calls > 1 else iter(())


async def test_embeddings_of_which_some_were_computed_are_not_free(world: World) -> None:
    world.model.model.before_embedding = FromTheSecondCall([Fail(Code.UNAVAILABLE, message=NOWHERE)])
    with pytest.raises(grpc.aio.AioRpcError):
        await world.caller().embed({"input": ["hello"] * (PASSAGES_A_CALL + 1)})
    assert len(world.model.model.embed_requests) == 2
    assert not (await world.meter.only_settlement()).exact


async def test_embeddings_that_went_nowhere_are_free(world: World) -> None:
    world.model.model.before_embedding = (Fail(Code.UNAVAILABLE, message=NOWHERE),)
    with pytest.raises(grpc.aio.AioRpcError):
        await world.caller().embed({"input": "hello"})
    settled = await world.meter.only_settlement()
    assert (settled.exact, settled.usage) == (True, usage_pb2.Usage())
