"""Streams that are asked for tokens, one by one, many at once, or without an end, and what is seen of them."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """What one stream is asked for.

    Attributes:
        tenant: For whom.
        turns: Role (`system`, `user` or `assistant`) and content of each message, oldest first.
        tokens: How many tokens to generate, exactly.
        temperature: 0 takes the most probable token.
        keeps_text: Whether arrivals carry their text, where reading it costs the client something.
    """

    tenant: str
    turns: tuple[Turn, ...]
    tokens: int
    temperature: float = 0.8
    keeps_text: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event of a stream.

    Attributes:
        tokens: How many tokens it brings.
        text: Its text, where it is kept.
        is_delta: Whether it is a delta, and not a correction of the count at the end.
    """

    tokens: int
    text: str = ""
    is_delta: bool = True


class Target(Protocol):
    """A way to a model."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    async def prepare(self, asks: Sequence[Ask]) -> None:
        """Does beforehand what is not to be measured."""
        ...

    def open(self, ask: Ask) -> AsyncGenerator[Arrival, None]:
        """Opens a stream; closing the iterator ends the request."""
        ...

    async def purge(self, tenant: str) -> None:
        """Drops what the model keeps of a tenant."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What one stream brought.

    Attributes:
        first_token_s: From the request to its first token.
        times: When each arrival came, monotonic seconds.
        text: The whole answer, where it was kept.
    """

    first_token_s: float
    times: tuple[float, ...]
    tokens: int
    deltas: int
    text: str

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first; 0 when there is no other."""
        duration_s = self.times[-1] - self.times[0]
        return (self.tokens - 1) / duration_s if duration_s else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one target at one concurrency.

    Attributes:
        tokens_per_s: All streams' tokens over the time from the first request to the last token.
        full_batch_per_s: Tokens per second while all streams generate; 0 when there is no such time.
        first_token_s: Time to the first token of each stream.
        deltas_per_token: Deltas over tokens; 1 is one delta per token.
    """

    tokens_per_s: float
    full_batch_per_s: float
    first_token_s: tuple[float, ...]
    deltas_per_token: float

    @property
    def median_first_token_s(self) -> float:
        """The median over the streams."""
        return statistics.median(self.first_token_s)


async def read(target: Target, ask: Ask) -> Reading:
    """Reads one stream to its end.

    Raises:
        RuntimeError: It brought another number of tokens than asked for.
    """
    began = time.perf_counter()
    times: list[float] = []
    texts: list[str] = []
    tokens = deltas = 0
    async with aclosing(target.open(ask)) as stream:
        async for arrival in stream:
            if not arrival.tokens:
                continue
            tokens += arrival.tokens
            if arrival.is_delta:
                times.append(time.perf_counter())
                texts.append(arrival.text)
                deltas += 1
    if tokens != ask.tokens:
        raise RuntimeError(f"{target.name}: a stream of {ask.tokens} tokens brought {tokens}.")
    return Reading(times[0] - began, tuple(times), tokens, deltas, "".join(texts))


async def measure(target: Target, asks: Sequence[Ask]) -> Sample:
    """Runs a stream for each ask, all started at once."""
    await target.prepare(asks)
    began = time.perf_counter()
    readings = await asyncio.gather(*(read(target, ask) for ask in asks))
    duration_s = time.perf_counter() - began
    tokens = sum(reading.tokens for reading in readings)
    deltas = sum(reading.deltas for reading in readings)
    full = full_batch_rate([reading.times for reading in readings]) * tokens / deltas
    return Sample(tokens / duration_s, full, tuple(reading.first_token_s for reading in readings), deltas / tokens)


def full_batch_rate(times: Sequence[Sequence[float]]) -> float:
    """Gives the arrivals per second from when the last stream has begun to when the first one ends; 0 when that is no
    time. `times` has those of each stream's arrivals, in seconds."""
    begin, end = max(taken[0] for taken in times), min(taken[-1] for taken in times)
    arrivals = sum(1 for taken in times for at in taken if begin < at <= end)
    return arrivals / (end - begin) if end > begin else 0.0


@dataclass(slots=True)
class Endless:
    """Streams that begin anew whenever they end.

    Attributes:
        tokens: All they brought so far.
        times: When the arrivals of each stream came, monotonic seconds.
    """

    times: list[list[float]]
    tokens: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, stream: int, tokens: int) -> None:
        """Counts an arrival of a stream."""
        self.tokens += tokens
        self.times[stream].append(time.perf_counter())
        self._came.set()

    async def wait_running(self, streams: int) -> None:
        """Waits until so many of the streams have brought a token."""
        while sum(1 for times in self.times if times) < streams:
            self._came.clear()
            await self._came.wait()

    async def wait_tokens(self, tokens: int) -> None:
        """Waits for so many more tokens."""
        wanted = self.tokens + tokens
        while self.tokens < wanted:
            self._came.clear()
            await self._came.wait()


@asynccontextmanager
async def endless(target: Target, streams: Sequence[Iterator[Ask]]) -> AsyncIterator[Endless]:
    """Keeps a stream running for each iterator of asks, for as long as the context lasts.

    Raises:
        ExceptionGroup: A stream failed.
    """
    seen = Endless([[] for _ in streams])

    async def go_on(number: int, asks: Iterator[Ask]) -> None:
        for ask in asks:
            await target.prepare([ask])
            async with aclosing(target.open(ask)) as stream:
                async for arrival in stream:
                    if arrival.tokens:
                        seen.take(number, arrival.tokens)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(go_on(number, asks)) for number, asks in enumerate(streams)]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()


async def rate_over(seen: Sequence[Endless], seconds: float) -> list[float]:
    """Gives the tokens per second that each of `seen` brings over the next seconds."""
    before = [one.tokens for one in seen]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    duration_s = time.perf_counter() - began
    return [(one.tokens - tokens) / duration_s for one, tokens in zip(seen, before, strict=True)]
