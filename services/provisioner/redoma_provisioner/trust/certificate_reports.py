"""Waits until a private site says that it has its new certificates."""

import asyncio
from collections.abc import Callable
from datetime import datetime


class CertificateReports:
    """Compares what sites report with what is waited for.

    `expiry_of` gives when the first of a site's certificates expires by its own report; None: it has not said.
    """

    __slots__ = ("_expiry_of", "_heard")

    def __init__(self, expiry_of: Callable[[str], datetime | None]) -> None:
        self._expiry_of = expiry_of
        self._heard = asyncio.Event()

    def note(self, site: str) -> None:
        """Says that a site may have reported something new."""
        self._heard.set()
        self._heard = asyncio.Event()

    async def wait_for(self, site: str, expire_time: datetime, timeout_s: float) -> None:
        """Returns when the site reports that the first of its certificates expires at `expire_time`.

        Raises:
            TimeoutError: It has not for so many seconds.
        """
        async with asyncio.timeout(timeout_s):
            while self._expiry_of(site) != expire_time:
                await self._heard.wait()
