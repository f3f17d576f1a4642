"""Answers that stream, over gRPC and as server-sent events, read by tasks that note when what came."""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from redoma.chat.v1.conversation_pb2 import Conversation, CreateConversationRequest, CreateConversationResponse
from redoma.chat.v1.message_pb2 import SendMessageRequest, SendMessageResponse
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma_cli.conformance.answer import CODES_OF_HTTP, OK, Answer, error_answer, http_answer, openai_error
from redoma_cli.conformance.caller import Caller
from redoma_cli.conformance.http_client import HttpAnswer, HttpStream, NoAnswer

SEND = "/redoma.chat.v1.ChatService/SendMessage"
COMPLETIONS = "/v1/chat/completions"
# As many as any check lets a stream say: where it must not end by itself, it never gets there.
ENDLESS_TOKENS = 100_000
BROKEN = Answer("UNAVAILABLE", "", "The connection broke before the answer ended.")


@dataclass(slots=True)
class Heard:
    """What came of an answer so far.

    Attributes:
        asked_at: When it was asked for, on the monotonic clock.
        first_at: When its first piece of text came; None before.
        last_at: When the last piece came.
        pieces: How many pieces came.
        input_tokens: Tokens of the prompt, as far as it was told.
        cached_tokens: Those of them that were reused.
        output_tokens: Tokens said so far.
        done: Whether it came to its proper end.
        end: How it ended; None while it runs, and when the reader went away.
        ended_at: When it ended; None while it runs.
        headers: Headers and trailers of the answer.
    """

    asked_at: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    pieces: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    done: bool = False
    end: Answer | None = None
    ended_at: float | None = None
    headers: tuple[tuple[str, str | bytes], ...] = field(default=())

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first piece."""
        return None if self.first_at is None else self.first_at - self.asked_at

    @property
    def label(self) -> str:
        """How it ended, for people."""
        if self.done:
            return f"it ended properly after {self.output_tokens} tokens"
        if self.end is None:
            return f"it still ran after {self.pieces} pieces"
        return f"it ended with {self.end.label} after {self.pieces} pieces"


class Speech(ABC):
    """One answer, asked for and read by a task of its own."""

    transport = ""

    def __init__(
        self,
        caller: Caller,
        prompt: str,
        max_tokens: int,
        *,
        endless: bool = False,
        model: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heard = Heard()
        self._caller = caller
        self._prompt = prompt
        self._max_tokens = ENDLESS_TOKENS if endless else max_tokens
        self._model = model
        self._clock = clock
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "Speech":
        """Asks."""
        self._task = asyncio.create_task(self._run())
        return self

    async def flows(self, pieces: int = 1, timeout_s: float = 60.0) -> bool:
        """Waits until so many pieces came; False if it ended before, or did not come so far in time."""
        await self._wait(lambda: self.heard.pieces >= pieces or self._over, timeout_s)
        return self.heard.pieces >= pieces

    async def ended(self, timeout_s: float) -> bool:
        """Waits until it ended; False if it did not in time."""
        return await self._wait(lambda: self._over, timeout_s)

    async def drop(self) -> None:
        """Goes away without waiting for the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def _over(self) -> bool:
        return self.heard.done or self.heard.end is not None

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        self.heard.asked_at = self._clock()
        try:
            await self._read()
            if not self._over:
                self.heard.end = BROKEN
        except (NoAnswer, OSError):
            self.heard.end = self.heard.end or BROKEN
        finally:
            self.heard.ended_at = self._clock()
            async with self._changed:
                self._changed.notify_all()

    async def _note_piece(self) -> None:
        now = self._clock()
        self.heard.first_at = self.heard.first_at or now
        self.heard.last_at = now
        self.heard.pieces += 1
        async with self._changed:
            self._changed.notify_all()

    @abstractmethod
    async def _read(self) -> None:
        """Asks, and notes what comes."""


class GrpcSpeech(Speech):
    """Over gRPC, into a conversation of its own."""

    transport = "gRPC"

    async def _read(self) -> None:
        request = CreateConversationRequest(parent="tenants/-", conversation=Conversation(model=self._model))
        made = await self._caller.ask(request, patient=True)
        if made.code != OK:
            self.heard.end = made
            return
        conversation = CreateConversationResponse.FromString(made.bodies[0]).conversation.name
        sampling = SamplingOptions(ignore_eos=True)
        if self._max_tokens < ENDLESS_TOKENS:
            sampling.max_output_tokens = self._max_tokens
        send = self._caller.channel.unary_stream(
            SEND, SendMessageRequest.SerializeToString, SendMessageResponse.FromString
        )
        self.heard.asked_at = self._clock()
        asked = SendMessageRequest(conversation=conversation, content=self._prompt, sampling=sampling)
        call = send(asked, metadata=self._caller.metadata)
        try:
            async for event in call:
                await self._note(event)
            if not self.heard.done:
                self.heard.end = Answer(OK, "", "The stream ended without `done`.")
            self.heard.headers = (*await call.initial_metadata(), *await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            self.heard.end = error_answer(error, ())
            self.heard.headers = self.heard.end.headers
        finally:
            call.cancel()

    async def _note(self, event: SendMessageResponse) -> None:
        kind = event.WhichOneof("event")
        if kind == "started":
            self.heard.input_tokens = event.started.input_tokens
        elif kind == "delta":
            usage = event.delta.usage
            self.heard.output_tokens = max(self.heard.output_tokens, usage.output_tokens)
            self.heard.cached_tokens = usage.cached_input_tokens
            await self._note_piece()
        elif kind == "done":
            usage = event.done.answer.usage
            self.heard.input_tokens, self.heard.cached_tokens = usage.input_tokens, usage.cached_input_tokens
            self.heard.output_tokens = usage.output_tokens
            self.heard.done = True


class SseSpeech(Speech):
    """As OpenAI's clients do: server-sent events over HTTP/1.1."""

    transport = "SSE"

    async def _read(self) -> None:
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": self._prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        if self._model:
            body["model"] = self._model
        if self._max_tokens < ENDLESS_TOKENS:
            body["max_tokens"] = self._max_tokens
        headers = (*self._caller.metadata, ("content-type", "application/json"))
        content = json.dumps(body).encode()
        self.heard.asked_at = self._clock()
        async with self._caller.edge.http().open("POST", COMPLETIONS, headers, content) as stream:
            self.heard.headers = tuple(stream.headers)
            if stream.status != 200:
                received = b"".join([piece async for piece in stream.pieces()])
                self.heard.end = http_answer(HttpAnswer(stream.status, tuple(stream.headers), received))
                return
            await self._events(stream)

    async def _events(self, stream: HttpStream) -> None:
        rest = b""
        async for piece in stream.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    await self._note(line.removeprefix(b"data: ").strip())

    async def _note(self, content: bytes) -> None:
        if content == b"[DONE]":
            self.heard.done = True
            return
        reason, message = openai_error(content)
        if reason or message:
            self.heard.end = Answer(_code_of(reason), reason, message, (content,))
            return
        event = json.loads(content)
        usage = event.get("usage")
        if usage:
            self.heard.input_tokens, self.heard.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            self.heard.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if any((choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()):
            await self._note_piece()


def _code_of(reason: str) -> str:
    """Gives the status that goes with a reason told inside a stream, where HTTP has none."""
    if reason.startswith("CREDENTIAL"):
        return "UNAUTHENTICATED"
    if reason.startswith("TENANT_"):
        return "PERMISSION_DENIED"
    return CODES_OF_HTTP[429] if reason.endswith(("EXCEEDED", "FULL")) else "UNKNOWN"


async def drop_all(speeches: Sequence[Speech]) -> None:
    """Goes away from all of them."""
    await asyncio.gather(*(speech.drop() for speech in speeches))
