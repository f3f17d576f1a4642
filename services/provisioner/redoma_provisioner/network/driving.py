"""Has a driver make what is wanted of the network true, and tell what it sees.

What carries the network may be slow or away, so this goes at its own pace: nothing that must happen at once waits here.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from redoma_kit.periodic import Periodic
from redoma_provisioner.network.condition import CONFIGURED
from redoma_provisioner.network.driver import (
    DesiredNetwork,
    DriverKind,
    DriverRefused,
    DriverUnavailable,
    NetworkDriver,
    ObservedNetwork,
)
from redoma_provisioner.network.metrics import DriverMetrics

OBSERVE_INTERVAL_S = 5.0
# What is wanted is applied again so often, in case someone took something of it away, and sooner if that is seen.
APPLY_INTERVAL_S = 30.0
REPAIR_INTERVAL_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# A driver that takes longer is taken for one that can't reach what carries the network.
LONGEST_CALL_S = 120.0
# Changes that come thick and fast are looked at together.
LEAST_PAUSE_S = 0.05
REFUSED = "Refused"
UNAVAILABLE = "DriverUnavailable"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why what is wanted could not be made true, or not be looked at.

    Attributes:
        reason: REFUSED or UNAVAILABLE.
        message: In the words of what carries the network, with the mending step.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a driver saw last.

    Attributes:
        network: What is there.
        desired: What it was looked at for.
        refusal: What was refused when it was applied; None: nothing.
        absence: Why it can't be looked at now, so that `network` may be outdated; None: it can.
    """

    network: ObservedNetwork
    desired: DesiredNetwork
    refusal: Problem | None = None
    absence: Problem | None = None


class Driving:
    """Drives one driver. `want` says what for.

    Attributes:
        observation: What came of it.
        has_observed: Whether anything was seen since the start.
    """

    def __init__(
        self,
        driver: NetworkDriver,
        site: str,
        monotonic: Callable[[], float],
        metrics: DriverMetrics,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._driver = driver
        self._monotonic = monotonic
        self._metrics = metrics
        self._log = log
        self._desired: DesiredNetwork | None = None
        self._applied: DesiredNetwork | None = None
        self._applied_at = self._not_before = float("-inf")
        self._failures = self._repairs = 0
        self._observed: Callable[[], None] = _nobody
        self._work = Periodic("network driver", OBSERVE_INTERVAL_S, self._round, log)
        self._watch: asyncio.Task[None] | None = None
        self.observation = Observation(ObservedNetwork(), DesiredNetwork(site))
        self.has_observed = False

    @property
    def kind(self) -> DriverKind:
        """Which driver it is."""
        return self._driver.kind

    def on_observed(self, observed: Callable[[], None]) -> None:
        """Has `observed` called whenever `observation` is another."""
        self._observed = observed

    def want(self, desired: DesiredNetwork) -> None:
        """Says what is wanted. Something else than before is tried at once, also while it waits to try again."""
        if desired != self._desired:
            self._desired = desired
            self._not_before = float("-inf")
            self._work.wake()

    def start(self) -> None:
        """Begins."""
        self._work.start()
        self._watch = asyncio.create_task(self._watch_changes(), name="network driver's changes")

    async def stop(self) -> None:
        """Ends, in the middle of a call of the driver if need be, and closes the driver. The network stays as it is."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._work.stop()
        await self._driver.close()

    async def _watch_changes(self) -> None:
        while True:
            try:
                async with aclosing(self._driver.changes()) as changes:
                    async for _ in changes:
                        self._work.wake()
                        await asyncio.sleep(LEAST_PAUSE_S)
            except (DriverUnavailable, DriverRefused) as error:
                self._log.info("changes of the network can't be watched", problem=str(error))
            except Exception:
                self._log.exception("changes of the network can't be watched")
            await asyncio.sleep(_pause(self._failures))

    async def _round(self) -> None:
        desired = self._desired
        if desired is None or self._monotonic() < self._not_before:
            return
        began = self._monotonic()
        former = self.observation
        try:
            async with asyncio.timeout(LONGEST_CALL_S):
                refusal = await self._apply(desired) if self._is_due(desired) else former.refusal
                network = await self._observe(desired)
            self.observation = Observation(network, desired, refusal)
            self.has_observed = True
            self._failures = 0
            self._plan_repair()
        except (DriverUnavailable, DriverRefused, TimeoutError) as error:
            self._put_off(former, error)
        except Exception:
            self._log.exception("the driver of the network failed", driver=self.kind.value)
            self._put_off(former, DriverUnavailable("The driver failed; the provisioner's log says how."))
        self._metrics.took(self._monotonic() - began)
        if self.observation != former:
            self._observed()

    def _is_due(self, desired: DesiredNetwork) -> bool:
        interval_s = APPLY_INTERVAL_S if _is_whole(self.observation) else self._repair_interval_s
        return desired != self._applied or self._monotonic() - self._applied_at >= interval_s

    @property
    def _repair_interval_s(self) -> float:
        """How long after an apply the next one may try to mend what is still missing: longer each time in a row."""
        return min(APPLY_INTERVAL_S, REPAIR_INTERVAL_S * 2.0 ** min(self._repairs, 16))

    def _plan_repair(self) -> None:
        if _is_whole(self.observation):
            self._repairs = 0
            return
        due_in = self._applied_at + self._repair_interval_s - self._monotonic()
        asyncio.get_running_loop().call_later(max(due_in, LEAST_PAUSE_S), self._work.wake)

    async def _apply(self, desired: DesiredNetwork) -> Problem | None:
        applied_at = self._monotonic()
        self._repairs = self._repairs + 1 if desired == self._applied else 0
        refusal = None
        try:
            await self._driver.apply(desired)
        except DriverRefused as error:
            self._metrics.failed(REFUSED)
            refusal = Problem(REFUSED, str(error))
            if self.observation.refusal != refusal:
                self._log.warning("the network was refused", driver=self.kind.value, problem=str(error))
        self._applied, self._applied_at = desired, applied_at
        return refusal

    async def _observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        try:
            return await self._driver.observe(desired)
        except DriverRefused as error:
            raise DriverUnavailable(str(error)) from error

    def _put_off(self, former: Observation, error: Exception) -> None:
        pause = _pause(self._failures)
        self._failures += 1
        self._not_before = self._monotonic() + pause
        message = str(error) or f"What carries the network took longer than {LONGEST_CALL_S:.0f} s; it may hang."
        absence = Problem(UNAVAILABLE, message)
        self._metrics.failed(UNAVAILABLE)
        if former.absence != absence:
            self._log.warning("the network can't be reached", driver=self.kind.value, problem=message)
        self.observation = Observation(former.network, former.desired, former.refusal, absence)
        asyncio.get_running_loop().call_later(pause, self._work.wake)


def _is_whole(observation: Observation) -> bool:
    """Tells whether nothing is missing that a driver could make; what was refused would be refused again."""
    network = observation.network
    each = (
        *(link.conditions for link in network.links.values()),
        *(listener.conditions for listener in network.listeners.values()),
        *(connector.conditions for connector in network.connectors.values()),
    )
    conditions = (condition for resource in each for condition in resource)
    return observation.refusal is not None or all(one.holds for one in conditions if one.type == CONFIGURED)


def _pause(failures: int) -> float:
    """Gives how long to wait before another try: longer with each failure, and not the same for all."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)


def _nobody() -> None:
    """Stands for a listener that is not there yet."""
