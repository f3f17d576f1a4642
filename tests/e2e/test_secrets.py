"""No key, prompt or answer in anything the site wrote: logs, settings, databases, metrics.

Marker texts are sent along every path a text can take, also those that fail. Then all that lies under the home is
searched, as bytes, for them, for every key of the session and for its secret half.
"""

import base64
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import openai
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc
from tests.e2e.conftest import Site, wait_until

ANY_MODEL = "smollm2-135m-instruct"
TIMEOUT_S = 120
# The demo's keys are for other programs to read, and what a person typed is his own. Weights are no text.
MEANT_TO_HOLD = ("demo.json", "chat_history", "models", "adapters", "pki")
SHORTEST_TOLD = 16
SAMPLING = sampling_pb2.SamplingOptions(max_output_tokens=24, ignore_eos=True)


@dataclass(slots=True)
class Markers:
    """Texts that must be found nowhere, by what they are."""

    texts: dict[str, str] = field(default_factory=dict)

    def new(self, what: str) -> str:
        """Makes a text that nobody else writes."""
        text = f"zq{uuid.uuid4().hex}"
        self.texts[text] = what
        return text

    def answer(self, text: str, what: str) -> None:
        """Adds what the model said, as far as it is long enough to be told from chance."""
        longest = max(text.splitlines() or [""], key=len).strip()
        if len(longest) >= SHORTEST_TOLD:
            self.texts[longest] = what

    def key(self, key: str, what: str) -> None:
        """Adds a key and its secret half."""
        self.texts[key] = what
        self.texts[key.split("_", 2)[2]] = f"the secret half of {what}"


def fake_key() -> str:
    """Makes what looks like a key and is none."""
    return f"rdm_{uuid.uuid4().hex[:8]}_{(uuid.uuid4().hex * 2)[:43]}"


def request(
    site: Site, path: str, body: bytes | None, headers: dict[str, str] | None = None, verb: str | None = None
) -> bytes:
    """Sends raw bytes, as acme unless `headers` say otherwise, and gives whatever is answered."""
    sent = {"content-type": "application/json", "authorization": f"Bearer {site.keys['acme']}"} | (headers or {})
    made = urllib.request.Request(site.edge + path, data=body, headers=sent, method=verb)
    try:
        with urllib.request.urlopen(made, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return bytes(error.read())


def say(marker: str, **fields: object) -> bytes:
    """Gives the body of a chat completion with the marker as its prompt."""
    messages = [{"role": "user", "content": f"Repeat after me: {marker}"}]
    return json.dumps({"model": ANY_MODEL, "messages": messages, "max_tokens": 24, **fields}).encode()


def use_openai(site: Site, markers: Markers) -> None:
    """Sends texts by REST, and keeps the answers."""
    client = site.openai()
    told = client.chat.completions.create(
        model=ANY_MODEL,
        messages=[
            {"role": "system", "content": markers.new("a system prompt")},
            {"role": "user", "content": markers.new("a prompt in JSON")},
        ],
        max_tokens=24,
        user=markers.new("the user of a request"),
        extra_body={"ignore_eos": True},
    )
    markers.answer(told.choices[0].message.content or "", "an answer in JSON")
    stream = client.chat.completions.create(
        model=ANY_MODEL,
        messages=[{"role": "user", "content": markers.new("a prompt of a stream")}],
        max_tokens=24,
        stop=[markers.new("a stop string")],
        stream=True,
        extra_body={"ignore_eos": True},
    )
    markers.answer("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices), "a stream")
    cut = client.chat.completions.create(
        model=ANY_MODEL,
        messages=[{"role": "user", "content": markers.new("a prompt of a stream that was cut")}],
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(cut))
    cut.close()
    with contextlib.suppress(openai.APIError):
        client.embeddings.create(model=ANY_MODEL, input=markers.new("the input of an embedding"))
    request(site, "/ask", json.dumps({"question": markers.new("a question")}).encode())


def fail_openai(site: Site, markers: Markers) -> None:
    """Sends texts by REST in requests that are refused."""
    for body in (
        b'{"model": "%s", "messages": [' % markers.new("JSON cut short").encode(),
        say(markers.new("the prompt of a wrong model"), model=markers.new("a wrong model")),
        say(markers.new("a prompt with a wrong field"), temperature=markers.new("a wrong temperature")),
        say(markers.new("a prompt with a negative limit"), max_tokens=-1),
        say(markers.new("a prompt with a wrong schema"), response_format={"type": markers.new("a wrong form")}),
        say(markers.new("a prompt that is too long") * 3_000),
        say(markers.new("a prompt with a wrong role"), messages=[{"role": markers.new("a wrong role"), "content": ""}]),
        json.dumps({markers.new("an unknown field"): markers.new("its value")}).encode(),
    ):
        request(site, "/v1/chat/completions", body)
    request(site, f"/v1/models/{uuid.uuid4().hex}", None)
    request(site, "/v1/chat/completions", markers.new("no JSON at all").encode() + b"\xff\x00")


def use_grpc(site: Site, markers: Markers) -> None:
    """Sends texts in conversations, kept and refused ones."""
    with site.channel() as channel:
        conversations = conversation_pb2_grpc.ConversationServiceStub(channel)
        chat = message_pb2_grpc.ChatServiceStub(channel)
        bearer = site.bearer()
        wanted = conversation_pb2.Conversation(
            title=markers.new("a title"), system_prompt=markers.new("the instructions of a conversation")
        )
        created = conversation_pb2.CreateConversationRequest(parent="tenants/-", conversation=wanted)
        name = conversations.CreateConversation(created, metadata=bearer, timeout=TIMEOUT_S).conversation.name
        sent = message_pb2.SendMessageRequest(
            conversation=name, content=markers.new("a message that is kept"), sampling=SAMPLING
        )
        events = list(chat.SendMessage(sent, metadata=bearer, timeout=TIMEOUT_S))
        markers.answer("".join(event.delta.text for event in events), "an answer that is kept")
        cut = chat.SendMessage(
            message_pb2.SendMessageRequest(conversation=name, content=markers.new("a message whose answer was cut")),
            metadata=bearer,
            timeout=TIMEOUT_S,
        )
        next(iter(cut))
        cut.cancel()
        for refused in (
            message_pb2.SendMessageRequest(conversation=f"{name}0", content=markers.new("a message to nowhere")),
            message_pb2.SendMessageRequest(conversation=markers.new("a wrong name"), content="x"),
            message_pb2.SendMessageRequest(
                conversation=name,
                content=markers.new("a message with a wrong option"),
                sampling=sampling_pb2.SamplingOptions(temperature=-7.0),
            ),
        ):
            with contextlib.suppress(grpc.RpcError):
                list(chat.SendMessage(refused, metadata=bearer, timeout=TIMEOUT_S))
        with contextlib.suppress(grpc.RpcError):
            list(chat.SendMessage(sent, metadata=site.bearer("globex"), timeout=TIMEOUT_S))


def show_credentials(site: Site, markers: Markers) -> None:
    """Shows keys in every place where one may land, right and wrong ones."""
    for key in (site.keys["acme"], fake_key()):
        markers.key(key, "a key")
        basic = base64.b64encode(f"{key}:".encode()).decode()
        markers.texts[basic] = "a key in basic authorization"
        quoted = urllib.parse.quote(key)
        for path, headers in (
            ("/v1/models", {"authorization": f"Bearer {key}x"}),
            ("/v1/models", {"authorization": f"Basic {basic}"}),
            ("/v1/models", {"authorization": key}),
            ("/v1/models", {"authorization": "Bearer ", "x-api-key": key}),
            ("/v1/models", {"user-agent": key, "x-request-id": key, "x-forwarded-for": key, "referer": key}),
            ("/v1/models", {"cookie": f"key={key}", "redoma-identity": key, "traceparent": key}),
            (f"/v1/models?api_key={quoted}", {}),
            (f"/v1/models/{quoted}", {}),
            (f"/{quoted}", {"authorization": ""}),
        ):
            request(site, path, None, headers)
        request(site, "/v1/chat/completions", say(key))
    with site.channel() as channel:
        keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
        operator = (("authorization", f"Bearer {site.admin_key}"),)
        made = keys.CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(parent="tenants/acme"), metadata=operator, timeout=TIMEOUT_S
        )
        markers.key(made.secret, "a new key")
        for name in (made.secret, f"tenants/acme/apiKeys/{made.secret}", made.api_key.name):
            with contextlib.suppress(grpc.RpcError):
                keys.RevokeApiKey(api_key_pb2.RevokeApiKeyRequest(name=name), metadata=operator, timeout=TIMEOUT_S)
        with contextlib.suppress(grpc.RpcError):
            bearer = (("authorization", f"Bearer {made.secret}"),)
            keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent="tenants/-"), metadata=bearer, timeout=TIMEOUT_S)


def written_files(home: Path) -> Iterator[Path]:
    """Gives every file under the home that is not meant to hold a secret."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and path.relative_to(home).parts[0] not in MEANT_TO_HOLD:
            yield path


def metrics_pages(site: Site) -> Iterator[tuple[str, bytes]]:
    """Gives what each service tells Prometheus."""
    for name, address in site.env.items():
        if name.endswith("_METRICS__LISTEN"):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
                yield name, page.read()


def found_in(content: bytes, texts: dict[str, str]) -> set[str]:
    """Gives what of the texts is in the content, plain or as JSON has it."""
    return {
        what
        for text, what in texts.items()
        if any(form in content for form in {text.encode(), json.dumps(text)[1:-1].encode()})
    }


@pytest.fixture(scope="module")
def markers(site: Site) -> Markers:
    """What was sent along every path by the session's site, which has served all other tests too."""
    made = Markers()
    use_openai(site, made)
    fail_openai(site, made)
    use_grpc(site, made)
    show_credentials(site, made)
    for tenant, key in site.keys.items():
        made.key(key, f"the key of {tenant}")
    made.key(site.admin_key, "the admin key")
    await_logs(site)
    return made


def await_logs(site: Site) -> None:
    """Waits until the edge, which gathers what it logs, has written all that came before."""
    last = f"/v1/models/{uuid.uuid4().hex}"
    request(site, last, None)
    wait_until(lambda: last.encode() in (site.home / "log" / "edge.log").read_bytes(), "the edge to log")


def test_the_search_finds_what_is_there(site: Site, markers: Markers) -> None:
    demo = (site.home / "demo.json").read_bytes()
    assert "the admin key" in found_in(demo, markers.texts)
    assert len(list(written_files(site.home))) > 10
    assert any(path.suffix == ".log" and path.stat().st_size for path in written_files(site.home))


def test_no_secret_and_no_text_is_in_anything_the_site_wrote(site: Site, markers: Markers) -> None:
    found = {
        str(path.relative_to(site.home)): what
        for path in written_files(site.home)
        if (what := found_in(path.read_bytes(), markers.texts))
    }
    assert found == {}


def test_no_secret_and_no_text_is_in_a_metric(site: Site, markers: Markers) -> None:
    pages = dict(metrics_pages(site))
    assert len(pages) == 3
    assert {name: what for name, page in pages.items() if (what := found_in(page, markers.texts))} == {}
