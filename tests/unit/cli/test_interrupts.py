"""Ctrl-C at any point of a call ends it and leaves the channel whole: a real stub, a server in this process."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import FrameType

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma_cli.interrupts import response_of, stream_of

PATIENCE_S = 20.0
CALL_TIMEOUT_S = 120.0
NEVER = 1_000_000_000


class EndlessAnswers(message_pb2_grpc.ChatServiceServicer, conversation_pb2_grpc.ConversationServiceServicer):
    """Begins every answer and ends none; lists no conversations."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self.heard = 0

    def SendMessage(
        self, request: message_pb2.SendMessageRequest, context: grpc.ServicerContext
    ) -> Iterator[message_pb2.SendMessageResponse]:
        """Sends the first event and waits for the end of the call."""
        ended = threading.Event()

        def end() -> None:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
            ended.set()

        with self._changed:
            self._running += 1
            self.heard += 1
        if not context.add_callback(end):
            end()
        yield message_pb2.SendMessageResponse(started=message_pb2.AnswerStarted())
        ended.wait()

    def ListConversations(
        self, request: conversation_pb2.ListConversationsRequest, context: grpc.ServicerContext
    ) -> conversation_pb2.ListConversationsResponse:
        """Answers at once."""
        with self._changed:
            self.heard += 1
        return conversation_pb2.ListConversationsResponse()

    def wait_idle(self) -> bool:
        """Waits until no answer streams, and tells whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Server:
    """A server and what it runs."""

    address: str
    answers: EndlessAnswers


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port, where no call waits for a thread."""
    answers = EndlessAnswers()  # type: ignore[abstract]  # what is not played fails
    running = grpc.server(futures.ThreadPoolExecutor(max_workers=1_000))
    message_pb2_grpc.add_ChatServiceServicer_to_server(answers, running)
    conversation_pb2_grpc.add_ConversationServiceServicer_to_server(answers, running)
    address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    yield Server(address, answers)
    running.stop(0).wait()


class Presser:
    """Presses Ctrl-C at the n-th call or return of a function in this thread, while it is armed."""

    def __init__(self, point: int) -> None:
        self._left = point

    @property
    def has_pressed(self) -> bool:
        """Whether the point was reached."""
        return self._left <= 0

    def __enter__(self) -> None:
        sys.setprofile(self._count)

    def __exit__(self, *raised: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)


def begin_answer(channel: grpc.Channel, presser: Presser) -> None:
    """Reads the first event of an answer, and more where Ctrl-C was pressed; then leaves it."""
    stub = message_pb2_grpc.ChatServiceStub(channel)
    request = message_pb2.SendMessageRequest()
    with closing(stream_of(partial(stub.SendMessage, request, timeout=CALL_TIMEOUT_S))) as events:
        with presser:
            next(events)
        if presser.has_pressed:
            next(events)


def list_conversations(channel: grpc.Channel, presser: Presser) -> None:
    """Asks for one response."""
    stub = conversation_pb2_grpc.ConversationServiceStub(channel)
    request = conversation_pb2.ListConversationsRequest()
    with presser:
        response_of(partial(stub.ListConversations.future, request, timeout=CALL_TIMEOUT_S))


def is_usable(channel: grpc.Channel) -> bool:
    """Tells whether an answer still comes by the channel, and whether it can be closed."""

    def use() -> None:
        begin_answer(channel, Presser(NEVER))
        channel.close()

    # Neither would ever end where it is not so.
    user = threading.Thread(target=use, daemon=True)
    user.start()
    user.join(PATIENCE_S)
    return not user.is_alive()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make_call", [begin_answer, list_conversations])
def test_ctrl_c_at_any_point_ends_the_call_and_leaves_the_channel_whole(
    server: Server, make_call: Callable[[grpc.Channel, Presser], None]
) -> None:
    former = signal.getsignal(signal.SIGINT)
    point = interrupted = 0
    while True:
        point += 1
        presser = Presser(point)
        channel = grpc.insecure_channel(server.address)
        try:
            make_call(channel, presser)
            assert not presser.has_pressed, f"Ctrl-C at point {point} is lost"
        except KeyboardInterrupt:
            interrupted += 1
        assert signal.getsignal(signal.SIGINT) is former
        assert server.answers.wait_idle(), f"the call goes on that was interrupted at point {point}"
        assert is_usable(channel), f"the channel is of no use that was interrupted at point {point}"
        if not presser.has_pressed:
            break
    assert interrupted > 100
    assert server.answers.heard > interrupted / 2
