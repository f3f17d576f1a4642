"""A conversation as a person holds it: it remembers where it is, and every turn is kept by the chat service."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import grpc

from redoma.chat.v1.conversation_pb2 import (
    Conversation,
    CreateConversationRequest,
    GetConversationRequest,
    ListConversationsRequest,
    ListMessagesRequest,
)
from redoma.chat.v1.message_pb2 import (
    ContinueMessageRequest,
    ContinueMessageResponse,
    Message,
    SendMessageRequest,
    SendMessageResponse,
)
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma_cli.client import CALL_TIMEOUT_S, EdgeClient
from redoma_cli.errors import CliError, error_info
from redoma_cli.interrupts import response_of, stream_of

STREAM_TIMEOUT_S = 3600.0
OWN_TENANT = "tenants/-"
PAGE = 200
# A stopped answer is still being saved for a moment.
SETTLE_ATTEMPTS, SETTLE_WAIT_S = 20, 0.25


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: What to append to the answer.
        reasoning: What to append to what the model thinks.
        dropped_messages: How many of the oldest messages the model no longer sees; in the first piece only.
    """

    text: str = ""
    reasoning: str = ""
    dropped_messages: int = 0


class ConversationSession:
    """One conversation at a time: the tip is the message that the next one follows."""

    def __init__(
        self,
        client: EdgeClient,
        system_prompt: str,
        sampling: SamplingOptions,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._system_prompt = system_prompt
        self._sampling = sampling
        self._sleep = sleep
        self._conversation = ""
        self._tip = ""
        self._last_question = ""
        self._last_answer: Message | None = None

    @property
    def can_continue(self) -> bool:
        """Whether the last answer was cut."""
        return self._last_answer is not None and self._last_answer.state != Message.STATE_COMPLETE

    def start_anew(self) -> None:
        """Leaves the conversation; the next message makes a new one."""
        self._conversation = self._tip = self._last_question = ""
        self._last_answer = None

    def recent(self) -> list[Conversation]:
        """Gives the caller's conversations, the one changed last first.

        Raises:
            CliError: The call failed.
        """
        with self._client.telling():
            request = ListConversationsRequest(parent=OWN_TENANT, page_size=PAGE)
            listed = response_of(
                partial(self._client.conversations.ListConversations.future, request, timeout=CALL_TIMEOUT_S)
            )
            return list(listed.conversations)

    def open(self, name: str) -> list[Message]:
        """Goes to a conversation and gives the messages of the branch it was left at, oldest first.

        Raises:
            CliError: There is none of that name, or the call failed.
        """
        with self._client.telling():
            request = GetConversationRequest(name=name)
            found = response_of(
                partial(self._client.conversations.GetConversation.future, request, timeout=CALL_TIMEOUT_S)
            )
            messages = {message.name: message for message in self._messages(name)}
        branch: list[Message] = []
        at = found.conversation.latest_message
        while at in messages:
            branch.insert(0, messages[at])
            at = messages[at].parent_message
        self.start_anew()
        self._conversation = name
        for message in branch:
            self._tip = message.name
            if message.role == Message.ROLE_USER:
                self._last_question, self._last_answer = message.name, None
            else:
                self._last_answer = message
        return branch

    def send(self, text: str) -> Generator[Piece]:
        """Says something and streams the answer. Closing the iterator stops the answer; what came is kept.

        While it streams Ctrl-C stops it wherever the program is, and is raised only after that.

        Raises:
            CliError: The call failed; what was said before stays.
            KeyboardInterrupt: Ctrl-C stopped it.
        """
        if not self._conversation:
            with self._client.telling():
                settings = Conversation(system_prompt=self._system_prompt, sampling=self._sampling)
                request = CreateConversationRequest(parent=OWN_TENANT, conversation=settings)
                made = response_of(
                    partial(self._client.conversations.CreateConversation.future, request, timeout=CALL_TIMEOUT_S)
                )
                self._conversation = made.conversation.name
        yield from self._answer(
            SendMessageRequest(conversation=self._conversation, parent_message=self._tip, content=text)
        )

    def retry(self) -> Generator[Piece]:
        """Streams another answer to the last question.

        Raises:
            CliError: There is no question, or the call failed.
        """
        if not self._last_question:
            raise CliError("There is nothing to answer again.", "Say something first.")
        yield from self._answer(SendMessageRequest(conversation=self._conversation, parent_message=self._last_question))

    def go_on(self) -> Generator[Piece]:
        """Streams more of the last answer, which was cut.

        Raises:
            CliError: There is none, it was not cut, or the call failed.
        """
        if self._last_answer is None:
            raise CliError("There is no answer to go on with.", "Say something first.")
        if not self.can_continue:
            raise CliError("The last answer is whole.", "Say something, or ask for another answer with /retry.")
        request = ContinueMessageRequest(message=self._last_answer.name)
        for attempt in range(1, SETTLE_ATTEMPTS + 1):
            try:
                yield from self._answer(request)
                return
            except CliError as error:
                if attempt == SETTLE_ATTEMPTS or not _still_streaming(error):
                    raise
            self._sleep(SETTLE_WAIT_S)

    def _answer(self, request: SendMessageRequest | ContinueMessageRequest) -> Generator[Piece]:
        chat = self._client.chat
        with self._client.telling():
            if isinstance(request, SendMessageRequest):
                yield from self._follow(stream_of(partial(chat.SendMessage, request, timeout=STREAM_TIMEOUT_S)))
            else:
                yield from self._follow(stream_of(partial(chat.ContinueMessage, request, timeout=STREAM_TIMEOUT_S)))

    def _follow(self, events: Generator[SendMessageResponse] | Generator[ContinueMessageResponse]) -> Generator[Piece]:
        with closing(events):
            for event in events:
                kind = event.WhichOneof("event")
                if kind == "started":
                    self._last_question = event.started.user_message.name or self._last_question
                    self._last_answer = event.started.answer
                    self._tip = event.started.answer.name
                    yield Piece(dropped_messages=event.started.dropped_messages)
                elif kind == "delta":
                    yield Piece(event.delta.text, event.delta.reasoning)
                elif kind == "done":
                    self._last_answer = event.done.answer

    def _messages(self, conversation: str) -> Iterator[Message]:
        page_token = ""
        while True:
            request = ListMessagesRequest(parent=conversation, page_size=500, page_token=page_token)
            page = response_of(partial(self._client.conversations.ListMessages.future, request, timeout=CALL_TIMEOUT_S))
            yield from page.messages
            page_token = page.next_page_token
            if not page_token:
                return


def _still_streaming(error: CliError) -> bool:
    cause = error.__cause__
    info = error_info(cause) if isinstance(cause, grpc.RpcError) else None
    return info is not None and info.reason == "STATE_CONFLICT"
