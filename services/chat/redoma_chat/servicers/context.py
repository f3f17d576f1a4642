"""What a call brings beside its request: whose it is and when it must have ended."""

from collections.abc import Callable
from typing import Any

import grpc

from redoma_chat.deadline import Deadline
from redoma_chat.inference import RateLimits
from redoma_chat.names import Owner, owner_of
from redoma_chat.rate_limit_headers import rate_limit_headers
from redoma_kit.identity import current_identity

Context = grpc.aio.ServicerContext[Any, Any]


def current_owner() -> Owner:
    """Gives whose conversations the call is about.

    Raises:
        TenantMismatch: The caller belongs to no tenant.
    """
    return owner_of(current_identity())


async def tell_rate_limits(context: Context, limits: RateLimits) -> None:
    """Sends the response headers, if there are limits of which they tell."""
    if headers := rate_limit_headers(limits):
        await context.send_initial_metadata(headers)


class Deadlines:
    """Reads deadlines of calls, none later than `max_stream_s` seconds from now."""

    def __init__(self, max_stream_s: float, clock: Callable[[], float]) -> None:
        self._max_stream_s = max_stream_s
        self._clock = clock

    def of(self, context: Context) -> Deadline:
        """Gives the call's deadline."""
        remaining_s = context.time_remaining()
        limit_s = self._max_stream_s if remaining_s is None else min(remaining_s, self._max_stream_s)
        return Deadline(self._clock() + limit_s, self._clock)
