"""`redoma chat`: a conversation in the terminal that is kept by the chat service."""

import sys
from collections.abc import Callable, Generator
from typing import Annotated

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory
from rich.console import Console
from rich.markup import escape

from redoma.chat.v1.conversation_pb2 import Conversation
from redoma.chat.v1.message_pb2 import Message
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma_cli.answer_form import read_answer_form
from redoma_cli.commands.options import EdgeOption, GrammarOption, JsonObjectOption, KeyOption, SchemaOption
from redoma_cli.commands.output import short_name, short_time
from redoma_cli.context import CommandContext, make_context
from redoma_cli.conversation import ConversationSession, Piece
from redoma_cli.errors import CliError
from redoma_cli.local.home import PRIVATE_DIRECTORY, write_private
from redoma_cli.wrapping import WordWrap

HELP = """\
[bold]/new[/]        begin a new conversation
[bold]/list[/]       list conversations
[bold]/open[/] N     go on with one of the list
[bold]/retry[/]      another answer to the last question
[bold]/continue[/]   go on with an answer that was cut
[bold]/help[/]       this
[bold]/quit[/]       leave (or Ctrl-D)
Ctrl-C stops an answer; what came is kept. A line that ends with \\ goes on in the next."""
SHOWN_CONVERSATIONS = 20
CONTINUATION = "\\"
THOUGHT_STYLE = "dim italic"

ReadLine = Callable[[str], str]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("chat", epilog="Examples:  redoma chat  ·  redoma chat --last  ·  redoma chat --tenant globex")(chat)


def chat(
    system: Annotated[str, typer.Option(help="Instructions for the model, for the whole conversation.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of each answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = None,
    json_schema: SchemaOption = None,
    json_object: JsonObjectOption = False,
    grammar: GrammarOption = None,
    last: Annotated[bool, typer.Option("--last", "-l", help="Go on with the conversation changed last.")] = False,
    tenant: Annotated[str, typer.Option(help="Which demo tenant's key to use when none is given.")] = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Talk to the model. Conversations are kept by the service; Ctrl-C stops an answer, not the program."""
    context = make_context()
    form = read_answer_form(json_schema, json_object, grammar)
    sampling = SamplingOptions(
        max_output_tokens=max_tokens, temperature=temperature, response_format=form.response_format()
    )
    with context.client(edge, key, tenant) as client:
        session = ConversationSession(client, system, sampling)
        terminal = ChatTerminal(session, context.out, line_reader(context))
        if last and (recent := session.recent()):
            terminal.show(session.open(recent[0].name))
        terminal.run()


def line_reader(context: CommandContext) -> ReadLine:
    """Gives what reads a line: with editing and history for a person, plainly from a pipe."""
    if not sys.stdin.isatty():

        def read_plain(prompt: str) -> str:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.rstrip("\n")

        return read_plain
    file = context.home.history_file
    file.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    if not file.exists():
        write_private(file, b"")
    prompts: PromptSession[str] = PromptSession(history=FileHistory(str(file)))
    hint = HTML("<ansibrightblack>Say something, or /help</ansibrightblack>")

    def read_edited(prompt: str) -> str:
        # Its own handling of signals drops one that comes between the end of the line and its return.
        return prompts.prompt(HTML(f"<ansigreen><b>{prompt} </b></ansigreen>"), placeholder=hint, handle_sigint=False)

    return read_edited


class ChatTerminal:
    """Reads lines, runs commands, and prints answers as they come."""

    def __init__(self, session: ConversationSession, out: Console, read_line: ReadLine) -> None:
        self._session = session
        self._out = out
        self._read_line = read_line
        self._listed: list[Conversation] = []

    def run(self) -> None:
        """Goes on until the person leaves."""
        while True:
            try:
                text = self._read_text()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text in ("/quit", "/exit"):
                return
            if not text:
                continue
            try:
                self._obey(text)
            except CliError as error:
                self._out.print(f"[bold red]{escape(error.message)}[/] {escape(error.mend)}")
            except KeyboardInterrupt:
                self._out.print()

    def show(self, messages: list[Message]) -> None:
        """Prints the messages of a conversation."""
        for message in messages:
            if message.role == Message.ROLE_USER:
                self._out.print(f"[bold green]›[/] {escape(message.content)}")
            else:
                self._out.print(message.content, markup=False)
        if self._session.can_continue:
            self._out.print("[dim]The last answer was cut; /continue goes on.[/]")

    def _read_text(self) -> str:
        lines = [self._read_line("›")]
        while lines[-1].endswith(CONTINUATION):
            lines[-1] = lines[-1].removesuffix(CONTINUATION)
            lines.append(self._read_line("…"))
        return "\n".join(lines).strip()

    def _obey(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if not word.startswith("/"):
            self._stream(self._session.send(text))
        elif word == "/new":
            self._session.start_anew()
            self._out.print("[dim]A new conversation.[/]")
        elif word == "/list":
            self._list()
        elif word == "/open":
            self._open(rest.strip())
        elif word == "/retry":
            self._stream(self._session.retry())
        elif word == "/continue":
            self._stream(self._session.go_on())
        elif word == "/help":
            self._out.print(HELP)
        else:
            raise CliError(f"There is no command {word}.", "/help lists those there are.")

    def _stream(self, pieces: Generator[Piece]) -> None:
        thinking = False
        wrap = WordWrap(self._out.width) if self._out.is_terminal else None
        try:
            for piece in pieces:
                if piece.dropped_messages:
                    self._out.print(f"[dim]The model no longer sees the {piece.dropped_messages} oldest messages.[/]")
                if piece.reasoning:
                    self._write(wrap.feed(piece.reasoning) if wrap else piece.reasoning, THOUGHT_STYLE)
                    thinking = True
                if piece.text:
                    if thinking:
                        self._write(wrap.feed("\n\n") if wrap else "\n\n", THOUGHT_STYLE)
                        thinking = False
                    self._write(wrap.feed(piece.text) if wrap else piece.text, None)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
        finally:
            pieces.close()
            if wrap:
                self._write(wrap.flush(), THOUGHT_STYLE if thinking else None)
        if stopped:
            self._out.print("\n[dim]Stopped; /continue goes on.[/]")
            return
        self._out.print()
        if self._session.can_continue:
            self._out.print("[dim]The answer was cut at its limit; /continue goes on.[/]")

    def _write(self, text: str, style: str | None) -> None:
        self._out.print(text, end="", markup=False, style=style, soft_wrap=True)
        self._out.file.flush()

    def _list(self) -> None:
        self._listed = self._session.recent()[:SHOWN_CONVERSATIONS]
        if not self._listed:
            self._out.print("[dim]None yet.[/]")
        for number, conversation in enumerate(self._listed, 1):
            title = conversation.title or short_name(conversation.name)
            self._out.print(f"{number:>3}  [dim]{short_time(conversation.update_time)}[/]  {escape(title)}")

    def _open(self, which: str) -> None:
        if not self._listed:
            self._listed = self._session.recent()[:SHOWN_CONVERSATIONS]
        if which.isdigit() and 1 <= int(which) <= len(self._listed):
            self.show(self._session.open(self._listed[int(which) - 1].name))
            return
        for conversation in self._listed:
            if which and short_name(conversation.name) == which:
                self.show(self._session.open(conversation.name))
                return
        raise CliError("There is no such conversation.", "/list numbers them; then /open with the number.")
