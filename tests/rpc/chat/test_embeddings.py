"""Embeddings in OpenAI's shape, over gRPC as the edge's transcoder calls it."""

import asyncio
import base64
import json
import struct
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from openai.types import CreateEmbeddingResponse

from redoma.tenant.v1 import tenant_pb2
from redoma_chat.model_channel import PASSAGES_A_CALL
from tests.fakes.model_service import EMBEDDING_SIZE, MODEL, Fail, WaitFor, embedding_of

from .conftest import World, eventually, failure_of, refused
from .test_openai import openai_error

Pattern = tenant_pb2.BlockedPattern


def as_float32(values: tuple[float, ...]) -> list[float]:
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


async def error_of(world: World, body: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.caller().embed(body)
    return openai_error(caught.value)


async def test_embeddings_are_in_openais_shape_and_in_order(world: World) -> None:
    body = await world.caller().embed({"model": "", "input": ["ab", "c"], "user": "u", "foo": [1]})
    assert set(json.loads(body)) == {"object", "data", "model", "usage"}
    answer = CreateEmbeddingResponse.model_validate_json(body, strict=True)
    assert (answer.object, answer.model) == ("list", MODEL)
    assert [(found.object, found.index) for found in answer.data] == [("embedding", 0), ("embedding", 1)]
    assert [found.embedding for found in answer.data] == [as_float32(embedding_of(text)) for text in ("ab", "c")]
    assert json.loads(body)["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_base64_is_little_endian_float32_of_the_same_values(world: World) -> None:
    floats = json.loads(await world.caller().embed({"input": "ab", "encoding_format": "float"}))
    encoded = json.loads(await world.caller().embed({"input": "ab", "encoding_format": "base64"}))
    packed = base64.b64decode(encoded["data"][0]["embedding"])
    assert list(struct.unpack("<3f", packed)) == floats["data"][0]["embedding"]


@pytest.mark.parametrize(
    ("given", "passages"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([5, 6.0], [(5, 6)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
        (["ab", [7]], ["ab", (7,)]),
    ],
)
async def test_every_kind_of_input_reaches_the_model(world: World, given: Any, passages: list[Any]) -> None:
    await world.caller().embed({"input": given})
    (request,) = world.model.model.embed_requests
    assert [item.text or tuple(item.tokens.ids) for item in request.inputs] == passages


async def test_call_carries_identity_request_id_and_deadline(world: World) -> None:
    await world.caller().embed({"input": "a"})
    (metadata,) = world.model.model.metadata
    assert metadata["redoma-identity"]
    assert metadata["x-request-id"]


async def test_many_inputs_are_computed_in_several_calls_and_answered_as_one(world: World) -> None:
    texts = [chr(97 + index % 26) * (1 + index % 7) for index in range(PASSAGES_A_CALL * 2 + 1)]
    answer = json.loads(await world.caller().embed({"input": texts}))
    assert [found["index"] for found in answer["data"]] == list(range(len(texts)))
    assert [found["embedding"] for found in answer["data"]] == [as_float32(embedding_of(text)) for text in texts]
    assert answer["usage"]["total_tokens"] == sum(map(len, texts))
    requests = world.model.model.embed_requests
    assert [len(request.inputs) for request in requests] == [PASSAGES_A_CALL, PASSAGES_A_CALL, 1]
    # The first answer says which model an alias stands for, and the others keep to it.
    assert [request.model for request in requests] == ["", MODEL, MODEL]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", "body"),
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [5, "a"]}, "input[1]"),
        ({"input": [5, -1]}, "input[1]"),
        ({"input": [5, 2**31]}, "input[1]"),
        ({"input": [[5], []]}, "input[1]"),
        ({"input": [[5], [5, 1.5]]}, "input[1][1]"),
        ({"input": ["a"] * 2_049}, "input"),
        (b'{"input": ["a", "\\ud800"]}', "input[1]"),
        ({"input": "a", "model": 5}, "model"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
    ],
)
async def test_wrong_request_names_the_field(world: World, body: Any, param: str) -> None:
    error = await error_of(world, body)
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", "invalid_field")
    assert world.model.model.embed_requests == []


async def test_most_inputs_that_are_allowed_are_answered(world: World) -> None:
    assert len(json.loads(await world.caller().embed({"input": ["a"] * 2_048}))["data"]) == 2_048


async def test_other_dimensions_than_the_models_are_refused_with_its_number(world: World) -> None:
    error = await error_of(world, {"input": "a", "dimensions": EMBEDDING_SIZE + 1})
    assert error["param"] == "dimensions"
    assert str(EMBEDDING_SIZE) in error["message"]
    assert world.model.model.embed_requests == []
    await world.caller().embed({"input": "a", "dimensions": EMBEDDING_SIZE})


@pytest.mark.parametrize(
    ("given", "field", "param"),
    [
        ("a", "inputs[0].text", "input"),
        (["a", "b"], "inputs[1].text", "input[1]"),
        (["a", "b"], "inputs[1]", "input[1]"),
        ([5, 6], "inputs[0].tokens.ids[1]", "input[1]"),
        ([[5], [5, 6]], "inputs[1].tokens.ids[1]", "input[1][1]"),
        (["a", "b"], "inputs", "input"),
    ],
)
@pytest.mark.parametrize("reason", ["INVALID_FIELD", "PROMPT_TOO_LONG"])
async def test_input_that_the_model_refuses_is_named_as_in_the_body(
    world: World, given: Any, field: str, param: str, reason: str
) -> None:
    world.model.model.before_embedding = (Fail(grpc.StatusCode.INVALID_ARGUMENT, reason, (("field", field),)),)
    error = await error_of(world, {"input": given})
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


async def test_input_of_a_later_call_is_named_by_its_place_in_the_body(world: World) -> None:
    fail = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (("field", "inputs[1].text"),))
    go_on = asyncio.Event()
    world.model.model.before_embedding = (WaitFor(go_on),)
    texts = ["a"] * (PASSAGES_A_CALL + 2)
    call = asyncio.ensure_future(error_of(world, {"input": texts}))

    async def first_runs() -> bool:
        return len(world.model.model.embed_requests) == 1

    await eventually(first_runs)
    world.model.model.before_embedding = (fail,)
    go_on.set()
    assert (await call)["param"] == f"input[{PASSAGES_A_CALL + 1}]"


@pytest.mark.parametrize(
    ("code", "reason", "wanted"),
    [
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", ("invalid_request_error", "model", "model_not_found")),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", ("rate_limit_error", None, "queue_full")),
        (grpc.StatusCode.UNAVAILABLE, "", ("server_error", None, "model_unreachable")),
    ],
)
async def test_failure_of_the_model_has_openais_shape(
    world: World, code: grpc.StatusCode, reason: str, wanted: tuple[str, str | None, str]
) -> None:
    world.model.model.before_embedding = (Fail(code, reason),)
    error = await error_of(world, {"input": "a"})
    assert (error["type"], error["param"], error["code"]) == wanted


async def test_disconnect_cancels_the_model(world: World) -> None:
    world.model.model.before_embedding = (WaitFor(asyncio.Event()),)
    call = world.caller().openai.CreateEmbedding(HttpBody(data=b'{"input": "a"}'))

    async def is_computing() -> bool:
        return bool(world.model.model.embed_requests)

    await eventually(is_computing)
    call.cancel()
    async with asyncio.timeout(20):
        await world.model.model.cancelled.wait()


async def test_deadline_reaches_the_model(world: World) -> None:
    world.model.model.before_embedding = (WaitFor(asyncio.Event()),)
    call = world.caller().openai.CreateEmbedding(HttpBody(data=b'{"input": "a"}'), timeout=1.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "DEADLINE_EXCEEDED"
    async with asyncio.timeout(20):
        await world.model.model.cancelled.wait()


async def test_key_without_the_scope_is_refused(world: World) -> None:
    failure = await refused(world.caller(scopes=("conversations",)).embed({"input": "a"}))
    assert failure.reason == "SCOPE_MISSING"


async def test_patterns_hold_for_every_text(world: World) -> None:
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(
        blocked_patterns=[
            Pattern(text="swordfish", action=Pattern.ACTION_REFUSE),
            Pattern(text="sesame", action=Pattern.ACTION_MASK),
        ]
    )
    error = await error_of(world, {"input": ["fine", "a SwordFish"]})
    assert (error["code"], error["param"]) == ("input_refused", "input")
    assert world.model.model.embed_requests == []
    await world.caller().embed({"input": ["open Sesame", "b"]})
    assert [item.text for item in world.model.model.embed_requests[0].inputs] == ["open [masked]", "b"]


async def test_tokens_do_not_get_round_the_patterns(world: World) -> None:
    pattern = Pattern(text="sesame", action=Pattern.ACTION_MASK)
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(blocked_patterns=[pattern])
    error = await error_of(world, {"input": [[5, 6]]})
    assert (error["code"], error["param"]) == ("input_refused", "input")
    assert world.model.model.embed_requests == []


async def test_too_many_input_tokens_are_refused_texts_and_tokens_together(world: World) -> None:
    world.tenant.tenant.checks = tenant_pb2.ContentChecks(max_input_tokens=100)
    world.model.model.count = 98
    await world.caller().embed({"input": ["a", "b", [5, 6]]})
    assert [turn.content for turn in world.model.model.count_requests[0].messages] == ["a\nb"]
    error = await error_of(world, {"input": ["a", "b", [5, 6, 7]]})
    assert error["code"] == "input_refused"
    assert "101" in error["message"]
    await world.caller().embed({"input": [5] * 100})
    assert (await error_of(world, {"input": [5] * 101}))["code"] == "input_refused"
    assert len(world.model.model.embed_requests) == 2


async def test_tenant_service_down_fails_closed(world: World) -> None:
    await world.tenant.stop()
    assert (await error_of(world, {"input": "a"}))["code"] == "storage_unavailable"
    assert world.model.model.embed_requests == []
