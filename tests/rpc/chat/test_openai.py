"""The façade: OpenAI's shapes in and out, over gRPC as the edge's transcoder calls it."""

import asyncio
import json
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from redoma.chat.v1 import openai_pb2
from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2
from tests.fakes.model_service import MODEL, Fail, Finish, Say, WaitFor

from .conftest import Caller, World, eventually, failure_of

USER = [{"role": "user", "content": "hi"}]
LOGPROB = sampling_pb2.TokenLogprob(
    token_id=1, token="é".encode(), logprob=-0.5, top=[sampling_pb2.TokenLogprob(token_id=2, token=b"\xf0", logprob=-1)]
)


def events(chunks: list[bytes]) -> list[Any]:
    """Reads server-sent events; `[DONE]` stays text."""
    found: list[Any] = []
    for event in b"".join(chunks).decode().split("\n\n")[:-1]:
        assert event.startswith("data: ")
        data = event.removeprefix("data: ")
        found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def error_of(caller: Caller, body: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """Calls and gives the gRPC code with the error object that the edge will send."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.complete(body)
    return caught.value.code(), openai_error(caught.value)


def openai_error(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    trailers = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    encoded = trailers["redoma-openai-error"]
    assert encoded.isascii()
    body = json.loads(unquote(encoded))
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found


async def test_completion_as_one_object(world: World) -> None:
    world.model.model.script = (Say(reasoning="hm"), Say("Hé"), Say("llo"), Finish())
    content_type, (body,) = await world.caller().complete({"model": "", "messages": USER, "user": "u", "foo": [1]})
    assert content_type == "application/json"
    completion = ChatCompletion.model_validate_json(body, strict=False)
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", MODEL)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Héllo", "stop")
    assert json.loads(body)["choices"][0]["message"]["reasoning_content"] == "hm"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (11, 3)
    assert completion.usage.total_tokens == 14
    assert json.loads(body)["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert json.loads(body)["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


async def test_completion_as_events(world: World) -> None:
    world.model.model.script = (Say(reasoning="hm"), Say('He"\u2028\n'), Say(""), Say("llo"), Finish("LENGTH"))
    content_type, chunks = await world.caller().complete({"messages": USER, "stream": True})
    assert content_type == "text/event-stream"
    *parts, done = events(chunks)
    assert done == "[DONE]"
    read = [ChatCompletionChunk.model_validate(part) for part in parts]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in read}) == 1
    assert read[0].choices[0].delta.role == "assistant"
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": 'He"\u2028\n'},
        {"content": "llo"},
        {},
    ]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * 4 + ["length"]
    assert not any("usage" in part for part in parts)


async def test_usage_comes_last_when_asked_for(world: World) -> None:
    body = {"messages": USER, "stream": True, "stream_options": {"include_usage": True, "other": 1}}
    _, chunks = await world.caller().complete(body)
    *parts, last, done = events(chunks)
    assert done == "[DONE]"
    assert all(part["usage"] is None for part in parts)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 13
    ChatCompletionChunk.model_validate(last)


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_in_openais_shape(world: World, stream: bool) -> None:
    world.model.model.script = (Say("é", logprobs=(LOGPROB,)), Say("", logprobs=(LOGPROB,)), Finish())
    _, chunks = await world.caller().complete({"messages": USER, "logprobs": True, "top_logprobs": 1, "stream": stream})
    if stream:
        choices = [part["choices"][0] for part in events(chunks)[:-1]]
        found = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    else:
        found = json.loads(chunks[0])["choices"][0]["logprobs"]["content"]
        ChatCompletion.model_validate_json(chunks[0])
    top = [{"token": "\ufffd", "logprob": -1.0, "bytes": [0xF0]}]
    assert found == [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9], "top_logprobs": top}] * 2
    sampling = world.model.model.requests[0].sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 1)


async def test_every_sampling_field_reaches_the_model(world: World) -> None:
    body = {
        "messages": USER,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "seed": -1,
        "stop": "END",
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "logit_bias": {"7": -100},
        "ignore_eos": True,
        "n": 1,
    }
    await world.caller().complete(body)
    (request,) = world.model.model.requests
    assert request.sampling == sampling_pb2.SamplingOptions(
        temperature=1,
        top_p=0.5,
        top_k=3,
        min_p=0.25,
        repeat_penalty=1.5,
        presence_penalty=-1,
        frequency_penalty=0.5,
        seed=2**32 - 1,
        stop=["END"],
        max_output_tokens=6,
        logit_bias={7: -100},
        ignore_eos=True,
    )
    assert request.truncation == model_pb2.TRUNCATION_REFUSE


async def test_whole_number_with_a_point_is_an_integer(world: World) -> None:
    await world.caller().complete({"messages": USER, "max_tokens": 5.0, "n": 1.0, "seed": 7.0})
    sampling = world.model.model.requests[0].sampling
    assert (sampling.max_output_tokens, sampling.seed) == (5, 7)


async def test_null_is_the_same_as_absent(world: World) -> None:
    names = ("temperature", "top_p", "seed", "stop", "max_tokens", "logit_bias", "logprobs", "n", "stream", "tools")
    await world.caller().complete({"messages": USER, **dict.fromkeys(names)})
    assert world.model.model.requests[0].sampling == sampling_pb2.SamplingOptions()


async def test_roles_and_content_parts(world: World) -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}], "name": "x"},
        {"role": "assistant", "content": "e"},
        {"role": "user", "content": "f"},
    ]
    await world.caller().complete({"messages": messages})
    assert [(turn.role, turn.content) for turn in world.model.model.requests[0].messages] == [
        (model_pb2.ROLE_SYSTEM, "a\n\nb"),
        (model_pb2.ROLE_USER, "cd"),
        (model_pb2.ROLE_ASSISTANT, "e"),
        (model_pb2.ROLE_USER, "f"),
    ]


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", "body"),
        (b"", "body"),
        (b"[" * 100_000, "body"),
        (b"\xff\xfe", "body"),
        (b'{"messages": [], "temperature": NaN}', "body"),
        ([], "body"),
        ({}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": USER * 4097}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [*USER, {"role": "tool", "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "system", "content": "hi"}]}, "messages"),
        ({"messages": [*USER, {"role": "assistant", "content": "hi"}]}, "messages"),
        ({"messages": [*USER, {"role": "assistant", "content": None}, *USER]}, "messages[1].content"),
        (user(5), "messages[0].content"),
        (user({"text": "a"}), "messages[0].content"),
        (user(["a"]), "messages[0].content[0]"),
        (user([{"type": "text", "text": "a"}, {"type": "image_url"}]), "messages[0].content[1].type"),
        (user([{"type": "text", "text": 1}]), "messages[0].content[0].text"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
        ({"messages": USER, "model": 3}, "model"),
        ({"messages": USER, "temperature": "hot"}, "temperature"),
        ({"messages": USER, "temperature": True}, "temperature"),
        ({"messages": USER, "temperature": 2.5}, "temperature"),
        ({"messages": USER, "temperature": 10**400}, "temperature"),
        ({"messages": USER, "top_p": 1.5}, "top_p"),
        ({"messages": USER, "top_k": 1.5}, "top_k"),
        ({"messages": USER, "n": 2}, "n"),
        ({"messages": USER, "n": "1"}, "n"),
        ({"messages": USER, "seed": 1.5}, "seed"),
        ({"messages": USER, "stop": 5}, "stop"),
        ({"messages": USER, "stop": ["a", 5]}, "stop[1]"),
        ({"messages": USER, "stop": ["a"] * 17}, "stop"),
        ({"messages": USER, "stop": ""}, "stop"),
        ({"messages": USER, "max_tokens": 0}, "max_tokens"),
        ({"messages": USER, "max_completion_tokens": -1, "max_tokens": 1}, "max_completion_tokens"),
        ({"messages": USER, "max_tokens": "5"}, "max_tokens"),
        ({"messages": USER, "max_tokens": 2**40}, "max_tokens"),
        ({"messages": USER, "logit_bias": [1]}, "logit_bias"),
        ({"messages": USER, "logit_bias": {"a": 1}}, "logit_bias"),
        ({"messages": USER, "logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({"messages": USER, "logit_bias": {"1": 101}}, "logit_bias"),
        ({"messages": USER, "logprobs": 1}, "logprobs"),
        ({"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": USER, "stream": "yes"}, "stream"),
        ({"messages": USER, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": USER, "stream": True, "stream_options": 1}, "stream_options"),
        (
            {"messages": USER, "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        ({"messages": USER, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": USER, "tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}, *USER]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "tool", "content": "x"}, *USER]}, "messages[0].role"),
        ({"messages": USER, "max_tokens": 5.5}, "max_tokens"),
        ({"messages": USER, "modalities": 5}, "modalities"),
        ({"messages": USER, "ignore_eos": "no"}, "ignore_eos"),
    ],
)
async def test_wrong_request_names_the_field(world: World, body: Any, param: str) -> None:
    code, error = await error_of(world.caller(), body)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", "invalid_field")
    assert world.model.model.requests == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "reason", "wanted"),
    [
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROMPT_TOO_LONG",
            ("invalid_request_error", "messages", "context_length_exceeded"),
        ),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", ("invalid_request_error", "model", "model_not_found")),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", ("rate_limit_error", None, "queue_full")),
        (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING", ("server_error", None, "model_loading")),
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID", ("authentication_error", None, "invalid_api_key")),
        (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_PROVISIONED", ("server_error", None, "model_not_provisioned")),
        (grpc.StatusCode.PERMISSION_DENIED, "MODEL_DEDICATED", ("permission_error", None, "model_dedicated")),
        (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", ("invalid_request_error", None, "adapter_not_found")),
        (grpc.StatusCode.PERMISSION_DENIED, "ADAPTER_DENIED", ("permission_error", None, "adapter_denied")),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "DEADLINE_UNREACHABLE",
            ("rate_limit_error", None, "deadline_unreachable"),
        ),
        (grpc.StatusCode.ABORTED, "TENANT_PURGED", ("conflict_error", None, "tenant_purged")),
    ],
)
async def test_failure_before_the_first_chunk_is_a_status_with_openais_error(
    world: World, stream: bool, code: grpc.StatusCode, reason: str, wanted: tuple[str, str | None, str]
) -> None:
    world.model.model.before_start = (Fail(code, reason),)
    found, error = await error_of(world.caller(), {"messages": USER, "stream": stream})
    assert found is code
    assert (error["type"], error["param"], error["code"]) == wanted


async def test_field_that_the_model_refuses_is_named_as_in_the_body(world: World) -> None:
    world.model.model.before_start = (
        Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (("field", "sampling.logit_bias[9]"),)),
    )
    _, error = await error_of(world.caller(), {"messages": USER})
    assert error["param"] == "logit_bias[9]"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_UNREACHABLE"),
        (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_PROVISIONED"),
    ],
)
async def test_retry_after_comes_in_a_trailer_where_a_retry_helps(
    world: World, code: grpc.StatusCode, reason: str
) -> None:
    world.model.model.before_start = (Fail(code, reason, retry_s=3),)
    with pytest.raises(grpc.aio.AioRpcError) as full:
        await world.caller().complete({"messages": USER})
    assert dict(full.value.trailing_metadata() or ())["retry-after"] == "3"
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await world.caller().complete({})
    assert "retry-after" not in dict(wrong.value.trailing_metadata() or ())


async def test_refusal_by_the_interceptors_has_openais_error_too(world: World) -> None:
    code, error = await error_of(world.caller(scopes=("conversations",)), {"messages": USER})
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert (error["type"], error["code"]) == ("permission_error", "scope_missing")


async def test_other_services_carry_no_openai_trailer(world: World) -> None:
    answer = await world.caller().send("tenants/-/conversations/none", "hi")
    assert answer.error is not None
    assert "redoma-openai-error" not in dict(answer.error.trailing_metadata() or ())


async def test_failure_mid_stream_is_an_event_and_no_done(world: World) -> None:
    world.model.model.script = (Say("a"), Fail(grpc.StatusCode.UNAVAILABLE))
    data = json.dumps({"messages": USER, "stream": True}).encode()
    chunks: list[bytes] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for chunk in world.caller().openai.CreateChatCompletion(HttpBody(data=data)):
            chunks.append(chunk.data)
    parts = events(chunks)
    assert parts[1]["choices"][0]["delta"] == {"content": "a"}
    assert parts[-1]["error"]["code"] == "model_unreachable"
    assert set(parts[-1]["error"]) == {"message", "type", "param", "code"}
    assert len(parts) == 3
    assert failure_of(caught.value).reason == "MODEL_UNREACHABLE"


async def test_failure_mid_answer_without_stream_is_a_status(world: World) -> None:
    world.model.model.script = (Say("a"), Fail(grpc.StatusCode.INTERNAL, "GENERATION_FAILED"))
    code, error = await error_of(world.caller(), {"messages": USER})
    assert (code, error["code"]) == (grpc.StatusCode.INTERNAL, "generation_failed")


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_cancels_the_model(world: World, stream: bool) -> None:
    world.model.model.script = (Say("a"), WaitFor(asyncio.Event()))
    data = json.dumps({"messages": USER, "stream": stream}).encode()
    call = world.caller().openai.CreateChatCompletion(HttpBody(data=data))

    async def is_generating() -> bool:
        return bool(world.model.model.requests)

    await eventually(is_generating)
    call.cancel()
    async with asyncio.timeout(20):
        await world.model.model.cancelled.wait()


async def test_models_are_listed_and_got(world: World) -> None:
    caller = world.caller()
    listed = json.loads((await caller.openai.ListModels(openai_pb2.ListModelsRequest())).data)
    expected = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "redoma"}
    assert listed == {"object": "list", "data": [expected]}
    got = await caller.openai.GetModel(openai_pb2.GetModelRequest(model=MODEL))
    assert got.content_type == "application/json"
    assert Model.model_validate_json(got.data).id == MODEL
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.openai.GetModel(openai_pb2.GetModelRequest(model="gpt-4é" * 400))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert openai_error(caught.value)["code"] == "model_not_found"


async def test_models_of_an_unreachable_model_service(world: World) -> None:
    await world.model.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.caller().openai.ListModels(openai_pb2.ListModelsRequest())
    assert failure_of(caught.value).reason == "MODEL_UNREACHABLE"


async def test_ask_answers_one_question(world: World) -> None:
    body = HttpBody(data=json.dumps({"prompt": "hi", "max_tokens": 9, "foo": 1}).encode())
    answer = json.loads((await world.caller().openai.Ask(body)).data)
    assert (answer["answer"], answer["model"], answer["finish_reason"]) == ("Hello there", MODEL, "stop")
    assert answer["usage"]["total_tokens"] == 13
    (request,) = world.model.model.requests
    assert request.sampling.max_output_tokens == 9
    assert [turn.content for turn in request.messages] == ["hi"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"nonsense", "body"),
        (b"{}", "prompt"),
        (b'{"prompt": ""}', "prompt"),
        (b'{"prompt": 5}', "prompt"),
        (b'{"prompt": "a", "max_tokens": "5"}', "max_tokens"),
        (b'{"prompt": "a", "max_tokens": 0}', "max_tokens"),
    ],
)
async def test_wrong_question_names_the_field(world: World, body: bytes, param: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.caller().openai.Ask(HttpBody(data=body))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert openai_error(caught.value)["param"] == param


async def test_deadline_mid_stream_is_an_event(world: World) -> None:
    world.model.model.script = (Say("a"), WaitFor(asyncio.Event()))
    data = json.dumps({"messages": USER, "stream": True}).encode()
    chunks: list[bytes] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for chunk in world.caller().openai.CreateChatCompletion(HttpBody(data=data), timeout=1.5):
            chunks.append(chunk.data)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert events(chunks)[-1]["error"]["code"] == "deadline_exceeded"


async def test_defect_mid_stream_is_an_event_without_its_text(world: World) -> None:
    world.model.model.script = (Say("a"), Finish("UNSPECIFIED"))
    world.expects_defect = True
    data = json.dumps({"messages": USER, "stream": True}).encode()
    chunks: list[bytes] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for chunk in world.caller().openai.CreateChatCompletion(HttpBody(data=data)):
            chunks.append(chunk.data)
    assert failure_of(caught.value).reason == "INTERNAL"
    error = events(chunks)[-1]["error"]
    assert error["code"] == "internal"
    assert "UNSPECIFIED" not in error["message"]
