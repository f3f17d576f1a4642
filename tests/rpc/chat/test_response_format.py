"""The form of an answer: from OpenAI's body and from a conversation to the model, and what is wrong with it back."""

import json
import sqlite3
from dataclasses import asdict
from typing import Any

import grpc
import pydantic
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from openai.lib._pydantic import to_strict_json_schema

from redoma.chat.v1 import conversation_pb2
from redoma.common.v1 import sampling_pb2
from redoma_chat.response_format import MAX_FORMAT_BYTES, MAX_SCHEMA_DEPTH
from redoma_chat.sampling import Sampling
from tests.fakes.model_service import Fail, Finish, Say

from .conftest import World, refused
from .test_openai import USER, error_of

SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"$ref": "#/$defs/é"}}, "$defs": {"é": {}}}
PERSON = '{"type":"object","properties":{"name":{"type":"string"}}}'
LIST = '{"type":"array"}'
AS_SCHEMA = sampling_pb2.SamplingOptions(response_format=sampling_pb2.ResponseFormat(json_schema=PERSON))
AS_LIST = sampling_pb2.SamplingOptions(response_format=sampling_pb2.ResponseFormat(json_schema=LIST))


class Address(pydantic.BaseModel):
    street: str


class Person(pydantic.BaseModel):
    age: int
    home: Address
    others: list[Address]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def as_json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


async def format_for(world: World, body: dict[str, Any]) -> sampling_pb2.ResponseFormat:
    await world.caller().complete({"messages": USER, **body})
    found: sampling_pb2.ResponseFormat = world.model.model.requests[-1].sampling.response_format
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_schema_reaches_the_model_with_its_members_in_order(world: World, stream: bool) -> None:
    wanted = as_json_schema(SCHEMA, strict=True, description="d")
    found = await format_for(world, {"response_format": wanted, "stream": stream})
    assert json.loads(found.json_schema) == SCHEMA
    assert found.json_schema.index('"z"') < found.json_schema.index('"a"')


async def test_schema_that_the_openai_client_makes_of_a_class_is_taken(world: World) -> None:
    schema = to_strict_json_schema(Person)
    assert schema["$defs"]
    found = await format_for(world, {"response_format": as_json_schema(schema, strict=True)})
    assert json.loads(found.json_schema) == schema


async def test_json_object_grammar_and_text(world: World) -> None:
    assert (await format_for(world, {"response_format": {"type": "json_object"}})).json_object
    assert (await format_for(world, {"grammar": 'root ::= "é"'})).grammar == 'root ::= "é"'
    both = {"grammar": 'root ::= "a"', "response_format": {"type": "text"}}
    assert (await format_for(world, both)).grammar == 'root ::= "a"'
    for nothing in ({"type": "text"}, {}, None):
        await format_for(world, {"response_format": nothing})
        assert not world.model.model.requests[-1].sampling.HasField("response_format")


async def test_largest_schema_and_deepest_schema_are_taken(world: World) -> None:
    await format_for(world, {"response_format": as_json_schema(nested(MAX_SCHEMA_DEPTH))})
    empty = len(json.dumps({"a": ""}, separators=(",", ":")))
    await format_for(world, {"response_format": as_json_schema({"a": "x" * (MAX_FORMAT_BYTES - empty)})})
    await format_for(world, {"grammar": "x" * MAX_FORMAT_BYTES})


SCHEMA_PATH = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": 5}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, SCHEMA_PATH),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, SCHEMA_PATH),
        ({"response_format": as_json_schema("{}")}, SCHEMA_PATH),
        ({"response_format": as_json_schema({}, name=5)}, "response_format.json_schema.name"),
        ({"response_format": as_json_schema({}, strict="yes")}, "response_format.json_schema.strict"),
        ({"response_format": as_json_schema(nested(MAX_SCHEMA_DEPTH + 1))}, SCHEMA_PATH),
        ({"response_format": as_json_schema(nested(900))}, SCHEMA_PATH),
        ({"response_format": as_json_schema({"a": "x" * MAX_FORMAT_BYTES})}, SCHEMA_PATH),
        ({"response_format": as_json_schema({"a": "é" * (MAX_FORMAT_BYTES // 2)})}, SCHEMA_PATH),
        ({"response_format": as_json_schema({"a": "\ud800"})}, SCHEMA_PATH),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        ({"grammar": 5}, "grammar"),
        ({"grammar": ""}, "grammar"),
        ({"grammar": "x" * (MAX_FORMAT_BYTES + 1)}, "grammar"),
        ({"grammar": "root ::= x", "response_format": {"type": "json_object"}}, "grammar"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
    ],
)
async def test_wrong_form_names_the_field(world: World, body: dict[str, Any], param: str) -> None:
    code, error = await error_of(world.caller(), {"messages": USER, **body})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", "invalid_field")
    assert world.model.model.requests == []


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.response_format.json_schema", SCHEMA_PATH),
        ("sampling.response_format.json_schema.properties.age.type", f"{SCHEMA_PATH}.properties.age.type"),
        ("sampling.response_format.json_schema.anyOf[1]", f"{SCHEMA_PATH}.anyOf[1]"),
        ("sampling.response_format.grammar", "grammar"),
        ("sampling.response_format", "response_format"),
    ],
)
async def test_path_that_the_model_refuses_is_the_one_in_the_body(world: World, field: str, param: str) -> None:
    refusal = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (("field", field),), message=f"{field}: no such")
    world.model.model.before_start = (refusal,)
    _, error = await error_of(world.caller(), {"messages": USER, "response_format": as_json_schema(SCHEMA)})
    assert error["param"] == param
    assert error["message"] == f"{param}: no such"


async def test_endless_path_is_cut_so_that_its_error_arrives(world: World) -> None:
    field = "sampling.response_format.json_schema.properties." + "é" * 1_000
    world.model.model.before_start = (Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (("field", field),)),)
    _, error = await error_of(world.caller(), {"messages": USER, "response_format": as_json_schema(SCHEMA)})
    assert error["param"].startswith(f"{SCHEMA_PATH}.properties.é")


async def test_answer_cut_at_its_limit_is_no_failure(world: World) -> None:
    world.model.model.script = (Say('{"name": "A'), Finish("LENGTH"))
    _, (body,) = await world.caller().complete({"messages": USER, "response_format": {"type": "json_object"}})
    (choice,) = json.loads(body)["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", '{"name": "A')


async def test_conversation_keeps_its_form_and_a_message_overrides_it(world: World) -> None:
    caller = world.caller()
    name = await caller.create(sampling=AS_SCHEMA)
    assert (await caller.conversation(name)).sampling == AS_SCHEMA
    await caller.send(name, "q")
    await caller.send(name, "q", sampling=AS_LIST)
    found = [request.sampling.response_format.json_schema for request in world.model.model.requests]
    assert found == [PERSON, LIST]


async def test_continued_answer_and_new_answer_keep_the_form_of_their_message(world: World) -> None:
    caller = world.caller()
    name = await caller.create(sampling=AS_SCHEMA)
    world.model.model.script = (Say("["), Finish("LENGTH"))
    cut = await caller.send(name, "q", sampling=AS_LIST)
    await world.restart_chat()
    caller = world.caller()
    world.model.model.script = (Say("]"), Finish())
    await caller.extend(cut.done.answer.name)
    await caller.send(name, parent=cut.started.user_message.name)
    await caller.send(name, parent=cut.started.user_message.name, sampling=AS_SCHEMA)
    found = [request.sampling.response_format.json_schema for request in world.model.model.requests]
    assert found == [LIST, LIST, LIST, PERSON]


async def test_continued_answer_keeps_its_form_when_the_conversations_changes(world: World) -> None:
    caller = world.caller()
    name = await caller.create()
    world.model.model.script = (Say("Once"), Finish("LENGTH"))
    cut = await caller.send(name, "q")
    changed = conversation_pb2.Conversation(name=name, sampling=AS_SCHEMA)
    await caller.conversations.UpdateConversation(
        conversation_pb2.UpdateConversationRequest(conversation=changed, update_mask=FieldMask(paths=["sampling"]))
    )
    await caller.extend(cut.done.answer.name)
    assert not world.model.model.requests[-1].sampling.HasField("response_format")


async def test_conversation_of_an_earlier_release_is_read(world: World) -> None:
    caller = world.caller()
    name = await caller.create(sampling=sampling_pb2.SamplingOptions(top_k=5))
    connection = sqlite3.connect(world.settings.database_url.removeprefix("sqlite+aiosqlite:///"))
    saved = asdict(Sampling(top_k=5))
    earlier = {key: value for key, value in saved.items() if key != "response_format"}
    connection.execute("UPDATE conversations SET sampling = ?", (json.dumps(earlier).encode(),))
    connection.commit()
    connection.close()
    await caller.send(name, "q")
    assert world.model.model.requests[0].sampling == sampling_pb2.SamplingOptions(top_k=5)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({}, "response_format"),
        ({"json_object": False}, "response_format.json_object"),
        ({"json_schema": ""}, "response_format.json_schema"),
        ({"json_schema": "{"}, "response_format.json_schema"),
        ({"json_schema": "[]"}, "response_format.json_schema"),
        ({"json_schema": '{"a": NaN}'}, "response_format.json_schema"),
        ({"json_schema": "[" * 60_000}, "response_format.json_schema"),
        ({"json_schema": json.dumps(nested(MAX_SCHEMA_DEPTH + 1))}, "response_format.json_schema"),
        ({"grammar": ""}, "response_format.grammar"),
        ({"grammar": "x" * (MAX_FORMAT_BYTES + 1)}, "response_format.grammar"),
    ],
)
async def test_wrong_form_in_a_conversation_is_named(world: World, wanted: dict[str, Any], field: str) -> None:
    caller = world.caller()
    options = sampling_pb2.SamplingOptions(response_format=sampling_pb2.ResponseFormat(**wanted))
    name = await caller.create()
    assert (await caller.send(name, "q", sampling=options)).failure.metadata["field"] == f"sampling.{field}"
    settings = conversation_pb2.Conversation(sampling=options)
    request = conversation_pb2.CreateConversationRequest(parent="tenants/acme", conversation=settings)
    failure = await refused(caller.conversations.CreateConversation(request))
    assert failure.metadata["field"] == f"conversation.sampling.{field}"
    assert world.model.model.requests == []
