"""The form of an answer, from files named on the command line to what is sent."""

import json
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from typer.testing import CliRunner

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc, openai_pb2_grpc
from redoma.common.v1.sampling_pb2 import ResponseFormat
from redoma_cli.__main__ import build_app
from redoma_cli.answer_form import AnswerForm, read_answer_form
from redoma_cli.errors import CliError

SCHEMA = '{"type": "object", "properties": {"z": {}, "a": {}}}'
GRAMMAR = 'root ::= "é"\n'


@dataclass
class StandIn(
    openai_pb2_grpc.OpenAIServiceServicer,
    conversation_pb2_grpc.ConversationServiceServicer,
    message_pb2_grpc.ChatServiceServicer,
):
    """Plays the edge with the chat service behind it; keeps what it is asked."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    created: list[conversation_pb2.Conversation] = field(default_factory=list)
    address: str = ""

    def CreateChatCompletion(self, request: HttpBody, context: grpc.ServicerContext) -> Iterator[HttpBody]:
        self.bodies.append(json.loads(request.data))
        yield HttpBody(data=b'data: {"choices": [{"delta": {"content": "{}"}}]}\n\ndata: [DONE]\n\n')

    def CreateConversation(
        self, request: conversation_pb2.CreateConversationRequest, context: grpc.ServicerContext
    ) -> conversation_pb2.CreateConversationResponse:
        self.created.append(request.conversation)
        return conversation_pb2.CreateConversationResponse(conversation=request.conversation)

    def SendMessage(
        self, request: message_pb2.SendMessageRequest, context: grpc.ServicerContext
    ) -> Iterator[message_pb2.SendMessageResponse]:
        complete = message_pb2.Message(state=message_pb2.Message.STATE_COMPLETE)
        yield message_pb2.SendMessageResponse(done=message_pb2.AnswerDone(answer=complete))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    stand_in = StandIn()  # type: ignore[abstract]  # what is not played fails
    server = grpc.server(futures.ThreadPoolExecutor(2))
    openai_pb2_grpc.add_OpenAIServiceServicer_to_server(stand_in, server)
    conversation_pb2_grpc.add_ConversationServiceServicer_to_server(stand_in, server)
    message_pb2_grpc.add_ChatServiceServicer_to_server(stand_in, server)
    stand_in.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.setenv("REDOMA_HOME", str(tmp_path / "home"))
    yield stand_in
    server.stop(None)


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    file = tmp_path / "schema.json"
    file.write_text(SCHEMA)
    return file


@pytest.fixture
def grammar_file(tmp_path: Path) -> Path:
    file = tmp_path / "answer.gbnf"
    file.write_text(GRAMMAR)
    return file


def run(service: StandIn, *arguments: str, typed: str = "") -> str:
    options = ("--edge", service.address, "--key", "k")
    result = CliRunner().invoke(build_app(), [*arguments, *options], input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_ask_sends_the_form_that_its_options_name(service: StandIn, schema_file: Path, grammar_file: Path) -> None:
    assert run(service, "ask", "q", "--json-schema", str(schema_file)).strip() == "{}"
    run(service, "ask", "q", "--json-object")
    run(service, "ask", "q", "--grammar", str(grammar_file))
    run(service, "ask", "q")
    by_schema, by_object, by_grammar, free = service.bodies
    assert by_schema["response_format"]["type"] == "json_schema"
    sent = by_schema["response_format"]["json_schema"]["schema"]
    assert sent == json.loads(SCHEMA)
    assert list(sent["properties"]) == ["z", "a"]
    assert by_object["response_format"] == {"type": "json_object"}
    assert (by_grammar["grammar"], "response_format" in by_grammar) == (GRAMMAR, False)
    assert free.keys().isdisjoint({"grammar", "response_format"})


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("--json-schema", ResponseFormat(json_schema=SCHEMA)),
        ("--json-object", ResponseFormat(json_object=True)),
        ("--grammar", ResponseFormat(grammar=GRAMMAR)),
    ],
)
def test_chat_makes_the_form_the_conversations(
    service: StandIn, schema_file: Path, grammar_file: Path, option: str, wanted: ResponseFormat
) -> None:
    files = {"--json-schema": [str(schema_file)], "--grammar": [str(grammar_file)]}
    run(service, "chat", option, *files.get(option, []), typed="hello\n")
    (created,) = service.created
    assert created.sampling.response_format == wanted


def test_no_option_is_any_text() -> None:
    form = read_answer_form(None, False, None)
    assert (form, form.response_format(), form.openai_fields()) == (AnswerForm(), None, {})


def test_two_forms_are_refused(schema_file: Path, grammar_file: Path) -> None:
    for named in ((schema_file, True, None), (schema_file, False, grammar_file), (None, True, grammar_file)):
        with pytest.raises(CliError, match="one form"):
            read_answer_form(*named)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "empty"), (b" \n", "empty"), (b"\xff", "UTF-8"), (b"{", "not JSON"), (b"[]", "no JSON object")],
)
def test_file_that_is_no_schema_is_told_by_its_name(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "it.json"
    file.write_bytes(content)
    with pytest.raises(CliError, match=told) as error:
        read_answer_form(file, False, None)
    assert str(file) in error.value.message


def test_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    for named in ((tmp_path / "absent", False, None), (None, False, tmp_path / "absent")):
        with pytest.raises(CliError, match="absent can't be read"):
            read_answer_form(*named)
