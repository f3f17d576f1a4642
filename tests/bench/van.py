"""What each stage between a caller and a model costs: the egress, the embedded VAN, and the edge with chat."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import median

import psutil

from redoma_cli.local.home import Home
from tests.bench.figures import median_ratio, quantile, rotated
from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.load import Ask, Sample, Target, measure
from tests.bench.prompts import Prompts
from tests.bench.site import running_site
from tests.bench.targets import Access, EdgeSse, ModelService, engine_service
from tests.bench.unary import measure_unary
from tests.bench.ways import ALL, DIRECT, EGRESS, FORWARDERS, VAN, WAYS, open_ways

CONCURRENCIES = (1, 8, 16)
# In a round; one stream is over soon.
SAMPLES = {1: 4, 8: 2, 16: 2}
TOKENS = 128
SLOTS, CELLS = 16, 8_192
TENANT = "acme"
MODEL, BARE = "model", "bare egress"
# The Envoys on each way, by their processes.
ENVOYS: Mapping[str, tuple[str, ...]] = {
    DIRECT: (),
    EGRESS: (BARE,),
    VAN: ("egress", "gateway"),
    ALL: ("egress", "gateway", "edge"),
}
MOST_ADDED_MS = 1.0
LEAST_RATE = 0.97
ABOUT = (
    "Four ways to one model in one run, in turns: direct, over mutual TLS on the model's socket; through an egress "
    "that dials that socket, as an egress does behind a Skupper listener; through the site's own egress, its tunnels "
    "and the gateway, which dials that socket; and through edge and chat as well. A unary call is GetModel of a "
    "model service around a model that costs nothing, one after the other from one Python client, whose own time is "
    "in all of them; the ways change places every 50 calls. Token rates are the real model's, 128 tokens a stream, "
    "prompts included, all streams started at once. Added times are differences of the medians of a round and ratios "
    "those of neighbours in a round; the median over all of them counts. The Envoys' processor time over the model's "
    "bounds what they can take from the rate where all share the same processors, and varies less than it. All runs "
    "on one machine, so a network's own latency is not in it."
)

Rounds = Sequence[Mapping[str, Sequence[float]]]
Samples = Mapping[tuple[str, int], Sequence["Costed"]]


@dataclass(frozen=True, slots=True)
class Costed:
    """A sample, and what it cost.

    Attributes:
        envoys_part: Processor time of the Envoys on the way, over the model's in that time.
    """

    sample: Sample
    envoys_part: float


@dataclass(frozen=True, slots=True)
class Unary:
    """One way of a unary call, in milliseconds: medians over the rounds."""

    way: str
    p50_ms: float
    p99_ms: float
    added_ms: float
    added_to_egress_ms: float


@dataclass(frozen=True, slots=True)
class Rate:
    """One way at one number of streams: medians over the samples."""

    way: str
    streams: int
    tokens_per_s: float
    of_direct: float
    of_egress: float
    first_token_ms: float
    envoys_part: float


async def run(plan: Plan) -> Findings:
    """Measures unary calls, then token rates."""
    unary = unary_rows(await measure_unary(plan))
    rates = rate_rows(await _measure_rates(plan))
    calls = Table(
        "A unary call",
        ("way", "p50, ms", "p99, ms", "p50 added to direct, ms", "p50 added to egress, ms"),
        tuple(
            (row.way, *(f"{value:.2f}" for value in (row.p50_ms, row.p99_ms, row.added_ms, row.added_to_egress_ms)))
            for row in unary
        ),
    )
    tokens = Table(
        "Token rate",
        ("way", "streams", "tokens/s", "of direct", "of egress", "first token, ms", "Envoys' CPU of the model's"),
        tuple(
            (
                *(row.way, str(row.streams), f"{row.tokens_per_s:.0f}"),
                *(f"{row.of_direct:.3f}", f"{row.of_egress:.3f}", f"{row.first_token_ms:.0f}"),
                f"{row.envoys_part:.3f}",
            )
            for row in rates
        ),
    )
    data = {"unary": [asdict(row) for row in unary], "rates": [asdict(row) for row in rates]}
    return Findings("van", ABOUT, (calls, tokens), goals_of(unary, rates), data)


async def _measure_rates(plan: Plan) -> Samples:
    samples: dict[tuple[str, int], list[Costed]] = {}
    prompts = Prompts()
    tokens = plan.pick(TOKENS, 12)
    async with AsyncExitStack() as stack:
        running = running_site(plan.model, slots=SLOTS, kv_cells=CELLS, forwarders=FORWARDERS)
        site = stack.enter_context(running)
        access = Access(site.site, site.keys, await engine_service(site.site, stack))
        ways = await open_ways(Home(site.site.home), stack)
        targets: dict[str, Target] = {way: ModelService(access, channel, way) for way, channel in ways.channels.items()}
        targets[ALL] = EdgeSse(access)
        of_site = site.site.processes()
        processes = {name: psutil.Process(of_site[name]) for name in (MODEL, *ENVOYS[ALL])}
        processes[BARE] = psutil.Process(ways.egress)
        for way, target in targets.items():
            plan.tell(f"warming up {way}")
            await measure(target, [prompts.story(TENANT, 8)])
        for turn in range(plan.rounds):
            for streams in plan.pick(CONCURRENCIES, (1, 4)):
                for repetition in range(plan.pick(SAMPLES.get(streams, 1), 1)):
                    # What runs first finds the processor at its coolest.
                    for way in rotated(WAYS, turn + repetition):
                        plan.tell(f"round {turn + 1} of {plan.rounds}, {streams} streams, {way}")
                        asks = [prompts.story(TENANT, tokens) for _ in range(streams)]
                        costed = await _cost(
                            targets[way], asks, processes[MODEL], [processes[name] for name in ENVOYS[way]]
                        )
                        samples.setdefault((way, streams), []).append(costed)
                        await targets[way].purge(TENANT)
    return samples


async def _cost(target: Target, asks: Sequence[Ask], model: psutil.Process, envoys: Sequence[psutil.Process]) -> Costed:
    model_s, envoys_s = _cpu_s([model]), _cpu_s(envoys)
    sample = await measure(target, asks)
    return Costed(sample, (_cpu_s(envoys) - envoys_s) / max(1e-3, _cpu_s([model]) - model_s))


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(float(used.user + used.system) for used in (process.cpu_times() for process in processes))


def unary_rows(rounds: Rounds) -> list[Unary]:
    """Puts the calls of all rounds together, by way."""
    return [
        Unary(
            way,
            median(median(taken[way]) for taken in rounds) * 1e3,
            median(quantile(taken[way], 0.99) for taken in rounds) * 1e3,
            median(median(taken[way]) - median(taken[DIRECT]) for taken in rounds) * 1e3,
            median(median(taken[way]) - median(taken[EGRESS]) for taken in rounds) * 1e3,
        )
        for way in WAYS
    ]


def rate_rows(samples: Samples) -> list[Rate]:
    """Puts the samples together, by way and number of streams."""
    rates = {key: [one.sample.tokens_per_s for one in taken] for key, taken in samples.items()}
    rows = [
        Rate(
            way,
            streams,
            median(rates[way, streams]),
            median_ratio(rates[way, streams], rates[DIRECT, streams]),
            median_ratio(rates[way, streams], rates[EGRESS, streams]),
            median(one.sample.median_first_token_s for one in taken) * 1e3,
            median(one.envoys_part for one in taken),
        )
        for (way, streams), taken in samples.items()
    ]
    return sorted(rows, key=lambda row: (row.streams, WAYS.index(row.way)))


def goals_of(unary: Sequence[Unary], rates: Sequence[Rate]) -> tuple[Goal, ...]:
    """Gives what the VAN may cost: against a call that goes no further than the egress, and against a direct one."""
    (van,) = (row for row in unary if row.way == VAN)
    goals = [
        Goal("the embedded VAN adds to a unary call by the egress, ms", van.added_to_egress_ms, MOST_ADDED_MS, False),
        Goal("egress and embedded VAN add to a direct unary call, ms", van.added_ms, MOST_ADDED_MS, False),
    ]
    for row in rates:
        if row.way == VAN:
            of_egress = f"token rate by the embedded VAN of the egress's, {row.streams} streams"
            of_direct = f"token rate by egress and embedded VAN of a direct one, {row.streams} streams"
            goals.append(Goal(of_egress, row.of_egress, LEAST_RATE, True))
            goals.append(Goal(of_direct, row.of_direct, LEAST_RATE, True))
    return tuple(goals)
