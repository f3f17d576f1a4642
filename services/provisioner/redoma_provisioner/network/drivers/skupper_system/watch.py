"""Notices that Skupper has written something, by looking at the times of its files every few seconds."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from redoma_provisioner.network.drivers.skupper_system.place import Place

POLL_S = 2.0
MOST_FILES = 4_096


class Watch:
    """Watches the statuses and the router's configuration of one namespace."""

    def __init__(self, place: Place, poll_s: float = POLL_S) -> None:
        """`poll_s`: how often it looks, in seconds."""
        self._place = place
        self._poll_s = poll_s

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields when any file has come, gone or been written since the last time; never ends by itself."""
        before = await asyncio.to_thread(self._times)
        while True:
            await asyncio.sleep(self._poll_s)
            times = await asyncio.to_thread(self._times)
            if times != before:
                before = times
                yield

    def _times(self) -> frozenset[tuple[str, int]]:
        found = list[tuple[str, int]]()
        for directory in (self._place.runtime, self._place.router_config.parent):
            found += _times_in(directory)
        return frozenset(found)


def _times_in(directory: Path) -> list[tuple[str, int]]:
    found = list[tuple[str, int]]()
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if len(found) == MOST_FILES:
                break
            with suppress(OSError):
                found.append((entry.path, entry.stat().st_mtime_ns))
    return found
