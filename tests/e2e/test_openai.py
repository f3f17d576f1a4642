"""The unmodified OpenAI client against the edge: answers, streams, errors, disconnects."""

import json
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Site, wait_until

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
ANY_MODEL = "smollm2-135m-instruct"


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
