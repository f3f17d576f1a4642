"""How many output tokens a running call may say: a number that may grow while it runs."""

import asyncio
from collections.abc import AsyncGenerator


class Grant:
    """A bound that the model keeps to. It never shrinks.

    Attributes:
        tokens: Output tokens in all.
    """

    __slots__ = ("_grown", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._grown = asyncio.Event()

    def raise_to(self, tokens: int) -> None:
        """Lets the call have so many tokens in all; fewer than it may have change nothing."""
        if tokens > self.tokens:
            self.tokens = tokens
            self._grown.set()

    async def raises(self, known: int) -> AsyncGenerator[int, None]:
        """Gives each bound above `known`, as it comes; for one reader."""
        while True:
            self._grown.clear()
            if self.tokens > known:
                known = self.tokens
                yield known
            else:
                await self._grown.wait()
