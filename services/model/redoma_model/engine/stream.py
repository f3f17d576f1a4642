"""One request's events on their way from the engine's thread to the coroutine that reads them."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from redoma_model.engine.backend import TokenLogprob
from redoma_model.errors import ReaderTooSlow


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Started:
    """The request has its place in the batch."""

    input_tokens: int
    cached_tokens: int
    queue_s: float


@dataclass(slots=True)
class Delta:
    """A piece of the answer; counts are cumulative, `tokens` is how many it covers."""

    text: str
    reasoning: str
    output_tokens: int
    reasoning_tokens: int
    tokens: int = 1
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def extend(self, later: "Delta") -> None:
        """Appends the delta that follows."""
        self.text += later.text
        self.reasoning += later.reasoning
        self.output_tokens = later.output_tokens
        self.reasoning_tokens = later.reasoning_tokens
        self.tokens += later.tokens
        self.logprobs += later.logprobs


@dataclass(slots=True)
class Done:
    """The answer is complete; counts are final. An embedding has shape (embedding_size,) and length 1."""

    finish_reason: FinishReason
    output_tokens: int
    reasoning_tokens: int
    prefill_s: float
    decode_s: float
    embedding: NDArray[np.float32] | None = None


Event = Started | Delta | Done


class Stream:
    """The events of one request, in order, as an asynchronous iterator for one reader.

    Deltas that the reader has not taken are merged into one, and past a bound the stream ends with ReaderTooSlow. It
    lives on the event loop; the engine reaches it by way of the loop.
    """

    __slots__ = ("_error", "_events", "_max_undelivered_tokens", "_reader", "_wakeup", "closed")

    def __init__(self, max_undelivered_tokens: int) -> None:
        self._max_undelivered_tokens = max_undelivered_tokens
        self._events: deque[Event] = deque()
        self._error: BaseException | None = None
        self._reader: asyncio.Task[object] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self.closed = False

    def deliver(self, event: Event | BaseException) -> bool:
        """Takes an event, or the exception that ends the stream, and tells whether the reader keeps up."""
        if self.closed or self._error is not None:
            return True
        keeps_up = True
        if isinstance(event, BaseException):
            self._error = event
        elif isinstance(event, Delta) and self._events and isinstance(last := self._events[-1], Delta):
            last.extend(event)
            keeps_up = last.tokens <= self._max_undelivered_tokens
            if not keeps_up:
                self._error = ReaderTooSlow(last.tokens)
                if self._reader is not None:
                    self._reader.cancel()
        else:
            self._events.append(event)
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
        return keeps_up

    def close(self) -> None:
        """Drops what is undelivered and ends the iteration; what is still on its way is ignored."""
        self.closed = True
        self._events.clear()

    @contextmanager
    def interrupting_reader(self) -> Iterator[None]:
        """Runs the reader's loop so that passing the bound ends it wherever it waits, even in a write nobody takes.

        Raises:
            ReaderTooSlow: In place of the cancellation that ends it.
        """
        reader = asyncio.current_task()
        self._reader = reader
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if reader is not None and isinstance(self._error, ReaderTooSlow) and reader.uncancel() == 0:
                raise self._error from None
            raise
        finally:
            self._reader = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.closed:
                raise StopAsyncIteration
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        if isinstance(self._error, ReaderTooSlow):
            self._events.clear()
            raise self._error
        event = self._events.popleft()
        if isinstance(event, Done):
            self.closed = True
        return event
