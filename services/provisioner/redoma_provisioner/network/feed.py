"""Gives what changes to those who watch it: the latest, never faster than they should see it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """A value and those who follow it. What comes faster than `least_pause_s` is passed over, but for the last.

    Nothing is given before it was first set: what is not known yet is not the same as nothing.
    """

    def __init__(self, value: T, least_pause_s: float) -> None:
        self._value = value
        self._least_pause_s = least_pause_s
        self._changed = asyncio.Event()
        self._is_set = False

    @property
    def value(self) -> T:
        """What it is now."""
        return self._value

    def set(self, value: T) -> None:
        """Changes the value and wakes the followers, unless it is the same."""
        if value == self._value and self._is_set:
            return
        self._value, self._is_set = value, True
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[T, None]:
        """Gives the value as it is, then at each change."""
        if not self._is_set:
            await self._changed.wait()
        while True:
            changed, value = self._changed, self._value
            yield value
            await asyncio.sleep(self._least_pause_s)
            # It is set even if the change was during the pause.
            await changed.wait()
