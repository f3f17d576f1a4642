"""A closed load of many streams at once, and what it measured."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

# Opens one stream that will give exactly as many tokens as asked for; yields the count of tokens each event brings.
OpenStream = Callable[[int], AsyncIterator[int]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one target at one concurrency.

    Attributes:
        tokens_per_s: All streams' tokens over the time from the first request to the last token.
        first_token_s: Time to the first token of each stream.
    """

    tokens_per_s: float
    first_token_s: tuple[float, ...]

    @property
    def median_first_token_s(self) -> float:
        """The median over the streams."""
        return statistics.median(self.first_token_s)


async def measure(open_stream: OpenStream, concurrency: int, tokens: int) -> Sample:
    """Runs `concurrency` streams of `tokens` tokens each, all started at once.

    Raises:
        RuntimeError: A stream brought another number of tokens than asked for.
    """
    began = time.perf_counter()

    async def read() -> float:
        first = 0.0
        received = 0
        async for count in open_stream(tokens):
            if count and not received:
                first = time.perf_counter() - began
            received += count
        if received != tokens:
            raise RuntimeError(f"A stream of {tokens} tokens brought {received}.")
        return first

    firsts = await asyncio.gather(*(read() for _ in range(concurrency)))
    return Sample(concurrency * tokens / (time.perf_counter() - began), tuple(firsts))
