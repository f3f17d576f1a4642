"""What running streams notice of a long prompt, and how fast it is computed meanwhile."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter

from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.in_process import WEIGHT, LocalEngine, Workshop
from tests.bench.load import Endless, endless
from tests.bench.prompts import Prompts

PROMPT_TOKENS = 4_000
STREAMS = 8
STREAM_TOKENS = 3_000
RUNNER, NEWCOMER = "acme", "globex"
ABOUT = (
    f"A prompt of {PROMPT_TOKENS:,} tokens arrives while {STREAMS} streams of tenant {RUNNER} run. A step time is the "
    "median gap between two tokens of a stream just before; the worst gap is the longest of any of the streams from "
    "the prompt's arrival to its first token, in step times, once as the median of the rounds and once as the "
    "longest of all rounds. The prompt's rate is compared with its rate on the idle engine, in the same round. The "
    f"prompt is {RUNNER}'s own, or of tenant {NEWCOMER} with the same weight or three times that; its share of each "
    "step is then its weight over both."
)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to meet a long prompt.

    Attributes:
        settings: Of the engine, where they differ from the defaults.
        tenant: Whose prompt it is.
        weight: The tenant's.
        most_gap: The goal for the median worst gap, in step times; None has no goal.
        least_rate: The goal for the prompt's rate of its full rate.
    """

    name: str
    settings: Mapping[str, object]
    tenant: str
    weight: int = WEIGHT
    most_gap: float | None = None
    least_rate: float | None = None

    @property
    def share(self) -> float | None:
        """The part of the step that is the prompt's tenant's, where the streams are another's."""
        return None if self.tenant == RUNNER else self.weight / (self.weight + WEIGHT)


CASES = (
    Case("own, default", {}, RUNNER, most_gap=3.0, least_rate=0.6),
    Case("own, step_stretch 6.5", {"step_stretch": 6.5, "step_tokens": 128}, RUNNER, most_gap=7.0, least_rate=0.8),
    Case("other tenant's, same weight", {}, NEWCOMER),
    Case("other tenant's, three times the weight", {"step_stretch": 6.5, "step_tokens": 128}, NEWCOMER, 3 * WEIGHT),
)


@dataclass(frozen=True, slots=True)
class Met:
    """One round of one case.

    Attributes:
        step_s: Median step time before the prompt.
        worst_gap_s: The longest gap of a stream meanwhile.
        rate: The prompt's tokens per second.
        full_rate: The same on the idle engine.
    """

    step_s: float
    worst_gap_s: float
    rate: float
    full_rate: float

    @property
    def gap(self) -> float:
        """The worst gap in step times."""
        return self.worst_gap_s / self.step_s

    @property
    def part(self) -> float:
        """The prompt's rate over its full rate."""
        return self.rate / self.full_rate


async def run(plan: Plan) -> Findings:
    """Meets long prompts in every case, in turns."""
    met: dict[str, list[Met]] = {case.name: [] for case in CASES}
    async with AsyncExitStack() as stack:
        workshop = Workshop(plan.model, stack)
        engines = {case.name: await workshop.engine(case.name, **case.settings) for case in CASES}
        for case in CASES:
            engines[case.name].weights[case.tenant] = case.weight
        for turn in range(plan.rounds):
            for case in CASES:
                plan.tell(f"round {turn + 1} of {plan.rounds}, {case.name}")
                met[case.name].append(await _meet(plan, engines[case.name], case, Prompts(turn)))
    return _findings(met)


async def _meet(plan: Plan, engine: LocalEngine, case: Case, prompts: Prompts) -> Met:
    size = plan.pick(PROMPT_TOKENS, 300)
    texts = [engine.cut(f"{prompts.number()} {prompts.passage(size)}", size) for _ in range(2)]
    full_s = await _first_token_s(engine, case.tenant, texts[0])
    streams = [prompts.stories(RUNNER, STREAM_TOKENS, STREAM_TOKENS) for _ in range(STREAMS)]
    async with endless(engine, streams) as running:
        await running.wait_running(STREAMS)
        await running.wait_tokens(plan.pick(60, 10) * STREAMS)
        arrives_at = perf_counter()
        prompt_s = await _first_token_s(engine, case.tenant, texts[1])
        await running.wait_tokens(2 * STREAMS)
        step_s = median(_gaps(running, arrives_at - 3_600, arrives_at)[-plan.pick(50, 8) * STREAMS :])
        worst_gap_s = max(_gaps(running, arrives_at, arrives_at + prompt_s))
    for tenant in {RUNNER, case.tenant}:
        await engine.purge(tenant)
    return Met(step_s, worst_gap_s, size / prompt_s, size / full_s)


async def _first_token_s(engine: LocalEngine, tenant: str, prompt: tuple[int, ...]) -> float:
    began = perf_counter()
    async for _ in engine.submit(tenant, prompt, 1, 0.8):
        return perf_counter() - began
    raise RuntimeError("A prompt brought no token.")


def _gaps(running: Endless, begin: float, end: float) -> list[float]:
    """Gives the gaps between two tokens of a stream that overlap with the time between the two, by when they end."""
    gaps = [
        (later, later - earlier)
        for times in running.times
        for earlier, later in pairwise(times)
        if later > begin and earlier < end
    ]
    return [gap for _, gap in sorted(gaps)]


def _findings(met: Mapping[str, Sequence[Met]]) -> Findings:
    rows, goals = [], []
    for case in CASES:
        taken = met[case.name]
        gap, part = median(one.gap for one in taken), median(one.part for one in taken)
        step_s = median(one.step_s for one in taken)
        worst = max(one.gap for one in taken)
        share = "" if case.share is None else f"{case.share:.2f}"
        rows.append((case.name, f"{step_s * 1_000:.0f}", f"{gap:.2f}", f"{worst:.2f}", f"{part:.2f}", share))
        if case.most_gap is not None and case.least_rate is not None:
            goals.append(Goal(f"worst gap in step times, {case.name}", gap, case.most_gap, False))
            goals.append(Goal(f"prompt's rate of its full rate, {case.name}", part, case.least_rate, True))
        if case.share is not None:
            goals.append(Goal(f"prompt's rate of its share of the step, {case.name}", part / case.share, 0.9, True))
    headings = ("prompt", "step, ms", "worst gap, steps", "longest of all", "rate of full", "share of the step")
    table = Table("A long prompt among running streams", headings, tuple(rows))
    data = {name: [asdict(one) for one in taken] for name, taken in met.items()}
    return Findings("long_prompt", ABOUT, (table,), tuple(goals), data)
