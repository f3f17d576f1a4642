"""The unmodified OpenAI client against the edge: answers in any form, streams, embeddings, errors, disconnects."""

import json
import math
import urllib.error
import urllib.request
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.e2e.conftest import Site, wait_until

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
ANY_MODEL = "smollm2-135m-instruct"
EMBEDDING_SIZE = 576


class Street(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    number: int


class Person(pydantic.BaseModel):
    kind: Literal["adult", "child"]
    age: int
    home: Street
    other_homes: list[Street] = pydantic.Field(max_length=2)


def post(site: Site, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], Any]:
    """Posts raw bytes and gives status, headers and the parsed body."""
    sent = {"content-type": "application/json", "authorization": f"Bearer {site.keys['acme']}", **(headers or {})}
    request = urllib.request.Request(site.edge + path, data=body, headers=sent, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, json.load(error)


def test_completes_with_exact_usage(site: Site) -> None:
    answer = site.openai().chat.completions.create(model=ANY_MODEL, messages=HELLO, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streams_in_pieces_and_ends_with_usage(site: Site) -> None:
    chunks = list(
        site.openai().chat.completions.create(
            model=ANY_MODEL,
            messages=HELLO,
            max_completion_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert len(texts) > 1
    assert reasons == ["length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_every_sampling_field_is_taken(site: Site) -> None:
    answer = site.openai().chat.completions.create(
        model=ANY_MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
        ],
        max_tokens=6,
        temperature=0.5,
        top_p=0.9,
        n=1,
        seed=7,
        stop=["\n\n", "zzz"],
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={"5": -100},
        logprobs=True,
        top_logprobs=3,
        user="someone",
        extra_body={"top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1, "no_such_field": {"a": 1}},
    )
    assert answer.usage is not None
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) <= answer.usage.completion_tokens
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3


def test_parse_gives_an_object_of_the_class(site: Site) -> None:
    answer = site.openai().chat.completions.parse(
        model=ANY_MODEL,
        messages=[{"role": "user", "content": "Ann is 41 and lives in High Street 5. Describe her as JSON."}],
        response_format=Person,
        max_tokens=600,
        temperature=0,
        frequency_penalty=0.5,
    )
    person = answer.choices[0].message.parsed
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(person, Person)
    assert person.kind in ("adult", "child")


@pytest.mark.parametrize("stream", [False, True])
def test_answer_is_what_the_schema_describes(site: Site, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    answer: Any = site.openai().chat.completions.create(
        model=ANY_MODEL,
        messages=[{"role": "user", "content": "How many apples are there, and of which colour?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "apples", "schema": schema, "strict": True}},
        max_tokens=200,
        temperature=1,
        stream=stream,
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    else:
        text = answer.choices[0].message.content
    found = json.loads(text)
    assert list(found) == ["colour", "count"]
    assert found["colour"] in ("red", "green")
    assert isinstance(found["count"], int)


def test_answer_is_what_the_grammar_allows(site: Site) -> None:
    answer = site.openai().chat.completions.create(
        model=ANY_MODEL, messages=HELLO, extra_body={"grammar": 'root ::= "yes" | "no"'}, max_tokens=20
    )
    assert answer.choices[0].message.content in ("yes", "no")
    assert answer.choices[0].finish_reason == "stop"


def test_json_that_is_cut_at_its_limit_is_no_failure(site: Site) -> None:
    answer = site.openai().chat.completions.create(
        model=ANY_MODEL, messages=HELLO, response_format={"type": "json_object"}, max_tokens=1
    )
    assert answer.choices[0].finish_reason == "length"
    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_schema_that_cannot_be_followed_is_400_and_names_the_path(site: Site, stream: bool) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "number of years"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        site.openai().chat.completions.create(model=ANY_MODEL, messages=HELLO, response_format=wanted, stream=stream)
    assert caught.value.param == "response_format.json_schema.schema.properties.age.type"
    with pytest.raises(openai.BadRequestError) as caught:
        site.openai().chat.completions.create(model=ANY_MODEL, messages=HELLO, extra_body={"grammar": "root ::= ("})
    assert caught.value.param == "grammar"


def cosine(one: list[float], other: list[float]) -> float:
    """Gives the cosine of the angle between vectors of length 1."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def embeddings(site: Site, given: Any, **options: Any) -> list[Any]:
    answer = site.openai().embeddings.create(model=ANY_MODEL, input=given, **options)
    assert [found.index for found in answer.data] == list(range(len(answer.data)))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    return [found.embedding for found in answer.data]


def test_embeddings_of_near_sentences_are_nearer(site: Site) -> None:
    cat, kitten, market = embeddings(
        site,
        [
            "The cat sleeps on the warm sofa.",
            "A kitten is sleeping on a warm couch.",
            "Quarterly revenue of the company grew by nine percent.",
        ],
        encoding_format="float",
    )
    assert len(cat) == EMBEDDING_SIZE
    for vector in (cat, kitten, market):
        assert cosine(vector, vector) == pytest.approx(1, abs=1e-3)
    assert cosine(cat, kitten) > cosine(cat, market)
    assert cosine(cat, kitten) > cosine(kitten, market)


def test_embeddings_as_base64_are_those_as_numbers(site: Site) -> None:
    # What the client asks for by itself is base64, which it reads with or without numpy.
    (by_default,) = embeddings(site, "hello")
    (as_numbers,) = embeddings(site, "hello", encoding_format="float")
    assert by_default == pytest.approx(as_numbers, abs=1e-2)
    status, _, answer = post(site, "/v1/embeddings", b'{"input": "hello", "encoding_format": "base64"}')
    assert status == 200
    assert isinstance(answer["data"][0]["embedding"], str)


def test_many_embeddings_come_in_order_whatever_their_size(site: Site) -> None:
    texts = ["one", "two", "three"] * 100
    vectors = embeddings(site, texts, encoding_format="float")
    assert len(vectors) == len(texts)
    for index, vector in enumerate(vectors):
        assert cosine(vector, vectors[index % 3]) > cosine(vector, vectors[(index + 1) % 3])


def test_embeddings_of_tokens(site: Site) -> None:
    first, second = embeddings(site, [[100, 200, 300], [400]])
    (single,) = embeddings(site, [100, 200, 300])
    assert cosine(first, single) > cosine(second, single)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], [2**30]]}, "input[1][0]"),
        ({"input": [2**30]}, "input[0]"),
        ({"input": ["a", "word " * 10_000]}, "input[1]"),
        ({"input": "a", "dimensions": 5}, "dimensions"),
    ],
)
def test_wrong_embedding_is_400_and_names_the_field(site: Site, body: dict[str, Any], param: str) -> None:
    status, _, answer = post(site, "/v1/embeddings", json.dumps(body).encode())
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (400, "invalid_request_error", param)
    if param == "dimensions":
        assert str(EMBEDDING_SIZE) in answer["error"]["message"]


def test_lists_and_gets_models(site: Site) -> None:
    (model,) = site.openai().models.list().data
    assert model.id == ANY_MODEL
    assert site.openai().models.retrieve(model.id).id == model.id


def test_unknown_model_is_404_and_says_what_there_is(site: Site) -> None:
    for call in (
        lambda: site.openai().models.retrieve("gpt-4"),
        lambda: site.openai().chat.completions.create(model="gpt-4", messages=HELLO),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_value_is_400_and_names_the_field(site: Site, change: dict[str, Any], param: str, stream: bool) -> None:
    body = {"model": ANY_MODEL, "messages": HELLO, "stream": stream, **change}
    status, headers, answer = post(site, "/v1/chat/completions", json.dumps(body).encode())
    assert (status, headers["content-type"].split(";")[0]) == (400, "application/json")
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert answer["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/ask"])
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b"", b'{"a":' * 5_000, b"null"])
def test_malformed_json_is_400_in_openai_shape(site: Site, path: str, body: bytes) -> None:
    status, _, answer = post(site, path, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


def test_prompt_that_does_not_fit_is_400_with_both_numbers(site: Site) -> None:
    long = [{"role": "user", "content": "word " * 10_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        site.openai().chat.completions.create(model=ANY_MODEL, messages=long)  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded"
    assert "8192" in caught.value.message
    assert "100" in caught.value.message


def test_twenty_megabytes_are_413_in_openai_shape(site: Site) -> None:
    body = json.dumps({"model": ANY_MODEL, "messages": [{"role": "user", "content": "x" * (20 << 20)}]}).encode()
    try:
        status, _, answer = post(site, "/v1/chat/completions", body)
    except (BrokenPipeError, ConnectionResetError, urllib.error.URLError):
        # The edge may answer and close before all is sent; the client library then sees the close alone.
        status, answer = 413, {"error": {"type": "invalid_request_error"}}
    assert status == 413
    assert answer["error"]["type"] == "invalid_request_error"
    assert site.openai().models.list().data


@pytest.mark.parametrize("key", ["", "sk-nonsense", "rdm_aaaaaaaa_" + "b" * 43, "x" * 5_000])
def test_unknown_key_is_401(site: Site, key: str) -> None:
    status, _, answer = post(site, "/v1/chat/completions", b"{}", {"authorization": f"Bearer {key}"})
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


def test_authentication_error_class_of_the_client(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError):
        site.openai(api_key="rdm_aaaaaaaa_" + "b" * 43).chat.completions.create(model=ANY_MODEL, messages=HELLO)


def test_operator_key_may_not_chat_and_is_told_why(site: Site) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="key create"):
        site.openai(api_key=site.admin_key).chat.completions.create(model=ANY_MODEL, messages=HELLO)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/", "/v1/chat/completions/x"])
def test_unknown_path_is_404_in_openai_shape(site: Site, path: str) -> None:
    status, _, answer = post(site, path, b"{}")
    assert status == 404
    assert answer["error"]["message"]


def test_client_that_disconnects_frees_its_slot(site: Site) -> None:
    stream = site.openai().chat.completions.create(
        model=ANY_MODEL, messages=HELLO, stream=True, max_tokens=4_000, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    wait_until(lambda: site.metric("redoma_model_running_requests") == 1, "the answer to run", 20)
    stream.close()
    wait_until(lambda: site.metric("redoma_model_running_requests") == 0, "the slot to be free", 20)


def test_special_tokens_in_a_message_are_plain_text(site: Site) -> None:
    def prompt_tokens(text: str) -> int:
        answer = site.openai().chat.completions.create(
            model=ANY_MODEL, messages=[{"role": "user", "content": text}], max_tokens=1
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    empty = prompt_tokens("x")
    assert prompt_tokens("x<|im_end|>") > empty + 3


def test_ask_answers_one_question(site: Site) -> None:
    status, _, answer = post(site, "/ask", b'{"prompt": "Say hello.", "max_tokens": 5}')
    assert status == 200
    assert answer["answer"]
    assert answer["model"] == ANY_MODEL
    assert answer["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("body", [b"{}", b'{"prompt": 5}', b'{"prompt": "x", "max_tokens": "y"}'])
def test_ask_with_wrong_types_is_400(site: Site, body: bytes) -> None:
    status, _, answer = post(site, "/ask", body)
    assert status == 400
    assert answer["error"]["param"] in ("prompt", "max_tokens")


@pytest.mark.parametrize("header", ["redoma-identity", "Redoma-Identity"])
def test_identity_header_of_a_client_is_dropped(site: Site, header: str) -> None:
    body = json.dumps({"model": ANY_MODEL, "messages": HELLO, "max_tokens": 1}).encode()
    status, _, _ = post(site, "/v1/chat/completions", body, {header: "forged", "authorization": ""})
    assert status == 401
    status, _, _ = post(site, "/v1/chat/completions", body, {header: "forged"})
    assert status == 200
