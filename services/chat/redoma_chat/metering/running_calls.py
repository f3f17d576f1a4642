"""The calls that run in this process: kept from lapsing, granted more in time, and ended when they must end.

One task tells the meter of all of them together, so that the number of calls makes no more round trips.
"""

import asyncio
import contextvars
from collections.abc import Callable, Sequence

import structlog

from redoma_chat.errors import QuotaUnavailable
from redoma_chat.metering.meter import MOST_CALLS, Meter, Revocation
from redoma_chat.metering.running_call import RunningCall

INTERVAL_S = 2.0
# Between two rounds, however much is asked for.
LEAST_INTERVAL_S = 0.05


class RunningCalls:
    """Looks after the running calls."""

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._log = log
        self._interval_s = interval_s
        self._calls: set[RunningCall] = set()
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: RunningCall) -> None:
        """Looks after a call from now on."""
        self._calls.add(call)
        if self._task is None or self._task.done():
            # Its log lines are none of the call that happened to start it.
            self._task = asyncio.create_task(self._run(), name="metering", context=contextvars.Context())

    def remove(self, call: RunningCall) -> None:
        """Looks after a call no more."""
        self._calls.discard(call)

    def ask(self) -> None:
        """Tells the meter soon of the calls that need more."""
        self._asked.set()

    def revoke(self, revocation: Revocation) -> int:
        """Ends the calls of whom a revocation names; gives how many."""
        meant = [call for call in self._calls if _is_meant(call, revocation)]
        for call in meant:
            call.end(revocation.error())
        return len(meant)

    async def stop(self) -> None:
        """Looks after none any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        next_round_s = self._clock() + self._interval_s
        while self._calls:
            await self._pause(next_round_s - self._clock())
            self._asked.clear()
            is_round = self._clock() >= next_round_s
            calls = [call for call in self._calls if is_round or call.needs_more]
            if is_round:
                next_round_s = self._clock() + self._interval_s
            for first in range(0, len(calls), MOST_CALLS):
                await self._tell(calls[first : first + MOST_CALLS])
            self._end_lapsed()

    async def _pause(self, wait_s: float) -> None:
        await asyncio.sleep(min(LEAST_INTERVAL_S, self._interval_s))
        try:
            async with asyncio.timeout(wait_s):
                await self._asked.wait()
        except TimeoutError:
            pass

    async def _tell(self, calls: Sequence[RunningCall]) -> None:
        told_at_s = self._clock()
        try:
            verdicts = await self._meter.checkpoint([call.progress() for call in calls])
        except QuotaUnavailable:
            self._log.warning("the meter could not be told of running calls", calls=len(calls))
            return
        except Exception:
            self._log.exception("running calls are not told of")
            return
        for call, verdict in zip(calls, verdicts, strict=False):
            if call in self._calls:
                call.decide(verdict, told_at_s)

    def _end_lapsed(self) -> None:
        now_s = self._clock()
        for call in [call for call in self._calls if call.lapsed(now_s)]:
            call.end(QuotaUnavailable())


def _is_meant(call: RunningCall, revocation: Revocation) -> bool:
    return call.key.tenant == revocation.tenant and revocation.principal in ("", call.principal)
