"""How a metered call begins and ends."""

import asyncio
from collections.abc import Callable

from redoma_chat.errors import QuotaUnavailable
from redoma_chat.inference import Usage
from redoma_chat.metering.meter import CallKey, Meter, Settlement
from redoma_chat.metering.running_call import RunningCall, Wanted
from redoma_chat.metering.running_calls import RunningCalls
from redoma_chat.metering.settlements import Settlements
from redoma_kit.identity import current_identity


class MeteredCalls:
    """Begins calls for the identity of the call being handled, and ends them."""

    def __init__(
        self, meter: Meter, running: RunningCalls, settlements: Settlements, clock: Callable[[], float]
    ) -> None:
        self._meter = meter
        self._running = running
        self._settlements = settlements
        self._clock = clock

    async def begin(self, model: str, wanted: Wanted, timeout_s: float) -> RunningCall:
        """Holds what a call may use, and looks after it from now on. Call `end` in the end.

        Raises:
            QuotaExceeded: A limit would be passed.
            QuotaUnavailable: The meter does not answer.
        """
        identity = current_identity()
        key = CallKey(identity.tenant, identity.token_id)
        asked_at_s = self._clock()
        bound = 0 if wanted.open_ended else wanted.most_tokens
        try:
            reservation = await self._meter.reserve(model, wanted.input_tokens, bound, timeout_s)
        except (asyncio.CancelledError, QuotaUnavailable) as error:
            if not isinstance(error, QuotaUnavailable) or error.was_asked:
                # It may be held nevertheless.
                self._settlements.send(Settlement(key, Usage(), exact=True))
            raise
        call = RunningCall(key, identity.principal, reservation, wanted, asked_at_s, self._running.ask)
        self._running.add(call)
        return call

    def end(self, call: RunningCall, settle: Callable[[Settlement], None] | None) -> None:
        """Lets go of a call and has it settled: by `settle`, or at once where there is none."""
        self._running.remove(call)
        (settle or self._settlements.send)(call.settlement())
