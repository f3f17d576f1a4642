"""Turns what a handler raises into the one status the caller sees."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import structlog

from redoma_kit.errors import DomainError, ErrorTable, Failure, failure_of, internal_failure
from redoma_kit.interceptors.pipeline import Call

# How long a status may wait for a peer to read what was sent before it.
ABORT_WAIT_S = 30.0
ExtraTrailers = Callable[[Call, Failure], tuple[tuple[str, str | bytes], ...]]


def no_extra_trailers(call: Call, failure: Failure) -> tuple[tuple[str, str | bytes], ...]:
    """Adds nothing."""
    return ()


class Errors:
    """Aborts a failed call with a status that has one ErrorInfo.

    A DomainError is looked up in the service's table; anything else is a defect: its traceback goes to the log and the
    caller gets INTERNAL with the request id. `extra_trailers` may add trailing metadata for callers that can't read
    statuses.
    """

    def __init__(
        self, table: ErrorTable, log: structlog.stdlib.BoundLogger, extra_trailers: ExtraTrailers = no_extra_trailers
    ) -> None:
        self._table = table
        self._log = log
        self._extra_trailers = extra_trailers

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except DomainError as error:
            await self._abort(call, self._failure(call, error))
        except Exception:
            self._log.exception("unexpected error", method=call.method)
            await self._abort(call, internal_failure(call.request_id))

    def _failure(self, call: Call, error: DomainError) -> Failure:
        try:
            return failure_of(error, self._table)
        except KeyError:
            self._log.exception("error class without a rule", method=call.method)
            return internal_failure(call.request_id)

    async def _abort(self, call: Call, failure: Failure) -> None:
        call.failure = failure
        trailers = (*failure.trailing_metadata(), *self._extra_trailers(call, failure))
        try:
            async with asyncio.timeout(ABORT_WAIT_S):
                await call.context.abort(failure.code, failure.message, trailers)
        except TimeoutError:
            # A status waits behind what was written before. Whoever does not read that gets a reset.
            raise asyncio.CancelledError from None
