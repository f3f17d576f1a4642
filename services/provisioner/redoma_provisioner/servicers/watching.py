"""Streams that last as long as their caller, and end when the service shuts down."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from redoma_kit.errors import ShuttingDown
from redoma_kit.interceptors.drain import Drain

T = TypeVar("T")
LOOK_S = 3_600.0


async def until_drained(values: AsyncGenerator[T, None], drain: Drain) -> AsyncGenerator[T, None]:
    """Gives the values.

    Raises:
        ShuttingDown: The service shuts down.
    """
    draining = asyncio.ensure_future(_drained(drain))
    try:
        async with aclosing(values):
            while True:
                coming = asyncio.ensure_future(anext(values))
                try:
                    await asyncio.wait((coming, draining), return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        raise ShuttingDown()
                    value = coming.result()
                except StopAsyncIteration:
                    return
                finally:
                    coming.cancel()
                    # A generator that runs can't be closed.
                    await asyncio.gather(coming, return_exceptions=True)
                yield value
    finally:
        draining.cancel()


async def _drained(drain: Drain) -> None:
    while not await drain.begins_within(LOOK_S):
        pass
