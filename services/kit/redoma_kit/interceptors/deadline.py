"""Ends every call at its deadline: the caller's, or the longest that the method allows, whichever comes first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redoma_kit.errors import DeadlineExceeded
from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import Policy


class Deadline:
    """Cancels the handler when time is up and answers DEADLINE_EXCEEDED."""

    def __init__(self, policy: Policy, max_stream_s: float) -> None:
        self._policy = policy
        self._max_stream_s = max_stream_s

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        rule = self._policy.get(call.method)
        limit_s = self._max_stream_s if rule is None or rule.max_s is None else rule.max_s
        remaining_s = call.context.time_remaining()
        timeout = asyncio.timeout(limit_s if remaining_s is None else min(limit_s, remaining_s))
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.expired():
                raise DeadlineExceeded() from None
            raise
