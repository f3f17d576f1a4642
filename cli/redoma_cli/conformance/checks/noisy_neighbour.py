"""Whether one tenant's flood is another's outage."""

import asyncio
import statistics

from redoma_cli.conformance.check import Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.prompts import short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech

SAMPLES = 9
ANSWER_TOKENS = 4
# What does not come within this many times of what is allowed does not come; twice is enough to know.
TIMES_ALLOWED, LEAST_WAIT_S, MOST_FAILED = 10, 5.0, 2
REFUSED_PAUSE_S = 0.2


class NoisyNeighbour:
    """A tenant sends short requests while another floods."""

    id = "noisy-neighbour"
    title = "A tenant's flood does not keep others waiting"
    severity = Severity.HIGH
    why = "Otherwise one customer's batch job, or malice, is everyone's outage."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Compares the time to the first token with nobody else there and under the flood."""
        if lab.settings.quick:
            raise Skipped("It takes minutes; run without --quick.")
        guest, flooder = await lab.tenant(), await lab.tenant()
        await _sample(lab, guest, lab.settings.answer_s)
        probes.step("idle first tokens")
        idle = [ttft for ttft in [await _sample(lab, guest, lab.settings.answer_s) for _ in range(SAMPLES)] if ttft]
        if len(idle) < SAMPLES:
            raise Unclear("A call failed with nobody else there.")
        most_s = lab.settings.ttft_factor * max(statistics.median(idle), lab.settings.ttft_floor_s)
        flood = _Flood(lab, flooder)
        try:
            probes.step(f"{lab.settings.flood_streams} streams flood")
            await flood.begin()
            loaded = await self._loaded(lab, guest, max(LEAST_WAIT_S, TIMES_ALLOWED * most_s))
        finally:
            await flood.end()
        self._compare(lab, probes, statistics.median(idle), most_s, loaded)

    async def _loaded(self, lab: Lab, guest: LabTenant, wait_s: float) -> list[float | None]:
        loaded: list[float | None] = []
        while len(loaded) < SAMPLES and loaded.count(None) < MOST_FAILED:
            loaded.append(await _sample(lab, guest, wait_s))
        return loaded

    def _compare(self, lab: Lab, probes: Probes, idle_s: float, most_s: float, loaded: list[float | None]) -> None:
        failed = sum(ttft is None for ttft in loaded)
        probes.expect(
            not failed, "the neighbour's calls under the flood", "all succeed", f"{failed} of {len(loaded)} did not"
        )
        came = [ttft for ttft in loaded if ttft is not None]
        if not came:
            return
        loaded_s = statistics.median(came)
        probes.measure("first token, idle", f"{idle_s * 1000:.0f} ms")
        probes.measure("first token, under flood", f"{loaded_s * 1000:.0f} ms")
        probes.expect(
            loaded_s <= most_s,
            "the neighbour's median time to the first token under the flood",
            f"at most {most_s * 1000:.0f} ms ({lab.settings.ttft_factor:g} times its idle one)",
            f"{loaded_s * 1000:.0f} ms, {loaded_s / max(idle_s, 1e-9):.1f} times its idle one",
        )


class _Flood:
    """Streams without end, each asked for anew when it ends."""

    def __init__(self, lab: Lab, tenant: LabTenant) -> None:
        self._lab = lab
        self._tenant = tenant
        self._tasks: list[asyncio.Task[None]] = []
        self._flowing = asyncio.Event()
        self._last: Speech | None = None

    async def begin(self) -> None:
        """Returns once it flows.

        Raises:
            Unclear: It does not.
        """
        for number in range(self._lab.settings.flood_streams):
            kind: type[Speech] = SseSpeech if number % 2 else GrpcSpeech
            self._tasks.append(asyncio.create_task(self._keep_up(kind)))
        try:
            async with asyncio.timeout(self._lab.settings.answer_s):
                await self._flowing.wait()
        except TimeoutError:
            raise Unclear(f"The flood did not begin: {self._last.heard.label if self._last else ''}.") from None

    async def end(self) -> None:
        """Goes away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_up(self, kind: type[Speech]) -> None:
        while True:
            speech = kind(
                self._tenant.caller, short_prompt(self._lab.rng), 0, endless=True, model=self._lab.settings.model
            )
            self._last = speech.start()
            try:
                if await speech.flows():
                    self._flowing.set()
                await speech.ended(self._lab.settings.check_timeout_s)
                if speech.heard.end is not None:
                    await asyncio.sleep(REFUSED_PAUSE_S)
            finally:
                await speech.drop()


async def _sample(lab: Lab, tenant: LabTenant, wait_s: float) -> float | None:
    speech = GrpcSpeech(tenant.caller, short_prompt(lab.rng), ANSWER_TOKENS, model=lab.settings.model).start()
    try:
        await speech.ended(wait_s)
        return speech.heard.ttft_s if speech.heard.done else None
    finally:
        await speech.drop()
