"""`redoma ask`: one question, one answer, nothing kept."""

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from typing import Annotated

import typer
from google.api.httpbody_pb2 import HttpBody

from redoma_cli.answer_form import read_answer_form
from redoma_cli.commands.options import (
    EdgeOption,
    GrammarOption,
    JsonObjectOption,
    JsonOption,
    KeyOption,
    SchemaOption,
)
from redoma_cli.context import make_context
from redoma_cli.errors import CliError
from redoma_cli.interrupts import stream_of

STREAM_TIMEOUT_S = 3600.0
EVENT_PREFIX = "data: "
LAST_EVENT = "[DONE]"


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("ask", epilog="Examples:  redoma ask 'What is a redoma?'  ·  redoma ask 'Summarize:' < report.txt")(ask)


def ask(
    question: Annotated[
        list[str] | None, typer.Argument(help="The question; what comes on standard input follows it.")
    ] = None,
    system: Annotated[str, typer.Option(help="Instructions for the model.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = None,
    json_schema: SchemaOption = None,
    json_object: JsonObjectOption = False,
    grammar: GrammarOption = None,
    tenant: Annotated[str, typer.Option(help="Which demo tenant's key to use when none is given.")] = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask one question and stream the answer. Nothing is kept."""
    context = make_context()
    form = read_answer_form(json_schema, json_object, grammar)
    parts = [" ".join(question or []), read_piped()]
    prompt = "\n\n".join(part.strip() for part in parts if part.strip())
    if not prompt:
        raise CliError("There is no question.", "Give one: redoma ask 'What is a redoma?'")
    messages = [{"role": "system", "content": system}] if system else []
    body: dict[str, object] = {"messages": [*messages, {"role": "user", "content": prompt}], "stream": not as_json}
    body |= form.openai_fields()
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    request = HttpBody(content_type="application/json", data=json.dumps(body).encode())
    with context.client(edge, key, tenant) as client, client.telling():
        open_call = partial(client.openai.CreateChatCompletion, request, timeout=STREAM_TIMEOUT_S)
        with closing(stream_of(open_call)) as pieces:
            print_answer(pieces, as_json)


def print_answer(pieces: Iterable[HttpBody], as_json: bool) -> None:
    """Prints an answer as its pieces come, or whole as JSON.

    Raises:
        CliError: An event says that the answer failed.
    """
    if as_json:
        answer = json.loads(b"".join(piece.data for piece in pieces))
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    pending = ""
    for piece in pieces:
        pending += piece.data.decode()
        *lines, pending = pending.split("\n")
        for line in lines:
            _print_event(line)
    print(flush=True)


def read_piped() -> str:
    """Gives what another program or a file sends; empty when a person sits there, or nobody.

    Raises:
        CliError: It is not text.
    """
    # A program can be started without a standard input.
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise CliError("What comes on standard input is not UTF-8 text.", "Send text.") from None


def _print_event(line: str) -> None:
    """Prints the text in one line of a server-sent event.

    Raises:
        CliError: The event says that the answer failed.
    """
    if not line.startswith(EVENT_PREFIX) or line == EVENT_PREFIX + LAST_EVENT:
        return
    event = json.loads(line.removeprefix(EVENT_PREFIX))
    if "error" in event:
        print(flush=True)
        raise CliError(str(event["error"].get("message", "The answer failed.")), "Try again.")
    for choice in event.get("choices", []):
        sys.stdout.write(choice.get("delta", {}).get("content") or "")
        sys.stdout.flush()
