"""What one tenant notices of another's flood, in the engine and through the whole site; and how evenly four share."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

from tests.bench.figures import jain_index, quantile
from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.in_process import Workshop
from tests.bench.load import Endless, Reading, Target, endless, rate_over, read
from tests.bench.prompts import Prompts
from tests.bench.site import running_site
from tests.bench.targets import site_targets

FLOODER, GUEST = "acme", "globex"
EQUALS = ("acme", "globex", "initech", "umbrella")
SLOTS = 16
FLOODS = (16, 64)
# The guest's median time to its first token under each flood, at most so many times as long as when idle.
MOST_STRETCH = {16: 2.5, 64: 4.0}
GUEST_TOKENS = 64
VISITS = 16
# How often the flooder is alone, and then has the guest, in each round.
TURNS = 4
FLOOD_TOKENS = (200, 400)
EQUAL_STREAMS = 8
ABOUT = (
    f"Tenant {FLOODER} keeps 16 or 64 streams running without end (each begins anew when it ends; {SLOTS} are "
    f"computed at once), tenant {GUEST} sends one short request after the other: some 40 tokens of prompt, "
    f"{GUEST_TOKENS} of answer. Its time to the first token and its token rate after that are taken with nobody else "
    "there and under the flood. Its fair share is the rate of one stream in the batch: both tenants' tokens per "
    f"second over the {SLOTS} streams of {FLOODER} and its own one. {FLOODER}'s rate with the guest there and its rate "
    "alone are taken in turns within one flood, once every stream has begun anew. Jain's index is taken over the "
    f"rates of four tenants of the same weight with {EQUAL_STREAMS} endless streams each."
)


@dataclass(slots=True)
class Seen:
    """What was seen of one flood through one target; the lists of pairs have a pair for each round.

    Attributes:
        idle_s: The guest's times to first token with nobody else there.
        flood_s: The same under the flood.
        shares: The guest's token rate over its fair share, of each request.
        kept: The flooder's rate over its rate alone, of each round.
    """

    target: str
    streams: int
    idle_s: list[float] = field(default_factory=list)
    flood_s: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)

    @property
    def stretch(self) -> float:
        """The guest's median time to first token under the flood over the idle one."""
        return median(self.flood_s) / median(self.idle_s)

    def to_json(self) -> dict[str, Any]:
        """Gives the figures for plots."""
        return {
            "target": self.target,
            "streams": self.streams,
            "idle_s": self.idle_s,
            "flood_s": self.flood_s,
            "share": median(self.shares),
            "kept": median(self.kept),
        }


async def run(plan: Plan) -> Findings:
    """Floods the engine, then a site."""
    seen: list[Seen] = []
    evenness: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        local = await Workshop(plan.model, stack).engine("engine", slots=SLOTS)
        site = stack.enter_context(running_site(plan.model, EQUALS[2:], slots=SLOTS))
        ways = await site_targets(site.site, site.keys, stack)
        for target in (local, ways.sse):
            seen += await _flood(plan, target)
            evenness[target.name] = [await _evenness(plan, target, turn) for turn in range(plan.rounds)]
    return _findings(seen, evenness)


async def _flood(plan: Plan, target: Target) -> list[Seen]:
    floods = plan.pick(FLOODS, (16,))
    seen = {streams: Seen(target.name, streams) for streams in floods}
    guest = Prompts(2)
    await _visit(target, guest, 2)
    for turn in range(plan.rounds):
        for streams in floods:
            plan.tell(f"round {turn + 1} of {plan.rounds}, {target.name}, {streams} streams")
            await _round(plan, target, guest, seen[streams], turn)
            await target.purge(FLOODER)
    return list(seen.values())


async def _round(plan: Plan, target: Target, guest: Prompts, seen: Seen, turn: int) -> None:
    seen.idle_s += [reading.first_token_s for reading in await _visit(target, guest, plan.pick(VISITS, 3))]
    asks = [Prompts(1_000 * turn + number).stories(FLOODER, *FLOOD_TOKENS) for number in range(seen.streams)]
    async with endless(target, asks) as flood:
        running = min(seen.streams, SLOTS)
        await flood.wait_running(running)
        # By then no stream is the first of its place, so that contexts are as long as they stay on average.
        await flood.wait_tokens(plan.pick(FLOOD_TOKENS[1], 5) * running)
        rates = [await _turn(plan, target, guest, seen, flood) for _ in range(plan.pick(TURNS, 1))]
    alone, shared = (median(taken) for taken in zip(*rates, strict=True))
    seen.kept.append(shared / alone)


async def _turn(plan: Plan, target: Target, guest: Prompts, seen: Seen, flood: Endless) -> tuple[float, float]:
    """Gives the flooder's rate alone and then with the guest there, who is seen meanwhile."""
    (alone,) = await rate_over([flood], plan.pick(5.0, 1.0))
    before, began = flood.tokens, perf_counter()
    readings = await _visit(target, guest, plan.pick(VISITS // TURNS, 3))
    duration_s = perf_counter() - began
    shared = (flood.tokens - before) / duration_s
    fair = (shared + len(readings) * GUEST_TOKENS / duration_s) / (min(seen.streams, SLOTS) + 1)
    seen.flood_s += [reading.first_token_s for reading in readings]
    seen.shares += [reading.decode_rate / fair for reading in readings]
    return alone, shared


async def _visit(target: Target, guest: Prompts, visits: int) -> list[Reading]:
    """Sends the guest's requests, one after the other."""
    return [await read(target, guest.story(GUEST, GUEST_TOKENS)) for _ in range(visits)]


async def _evenness(plan: Plan, target: Target, turn: int) -> float:
    """Gives Jain's index over the rates of equal tenants."""
    plan.tell(f"round {turn + 1} of {plan.rounds}, {target.name}, {len(EQUALS)} equal tenants")
    async with AsyncExitStack() as stack:
        floods: list[Endless] = []
        for place, tenant in enumerate(EQUALS):
            seeds = range(100 * place, 100 * place + EQUAL_STREAMS)
            asks = [Prompts(10_000 * (turn + 1) + seed).stories(tenant, *FLOOD_TOKENS) for seed in seeds]
            floods.append(await stack.enter_async_context(endless(target, asks)))
        for flood in floods:
            await flood.wait_running(1)
        # Those that began first have had more so far.
        await rate_over(floods, plan.pick(5.0, 1.0))
        index = jain_index(await rate_over(floods, plan.pick(30.0, 3.0)))
    for tenant in EQUALS:
        await target.purge(tenant)
    return index


def _findings(seen: Sequence[Seen], evenness: dict[str, list[float]]) -> Findings:
    headings = (
        *("target", "streams", "idle, ms", "p95", "under flood, ms", "p95", "ratio"),
        *("of its fair share", "flooder's rate of alone"),
    )
    floods = Table("A guest's first token under a flood", headings, tuple(map(_cells, seen)))
    equals = Table(
        "Four equal tenants",
        ("target", "Jain's index, median", "least"),
        tuple((name, f"{median(taken):.3f}", f"{min(taken):.3f}") for name, taken in evenness.items()),
    )
    goals = [goal for one in seen for goal in _goals(one)]
    goals += [
        Goal(f"Jain's index of four equal tenants, {name}", median(taken), 0.95, True)
        for name, taken in evenness.items()
    ]
    return Findings("flood", ABOUT, (floods, equals), tuple(goals), {"floods": [one.to_json() for one in seen]})


def _goals(seen: Seen) -> list[Goal]:
    where = f"{seen.streams} streams, {seen.target}"
    return [
        Goal(f"guest's median first token, of idle, {where}", seen.stretch, MOST_STRETCH[seen.streams], False),
        Goal(f"guest's rate of its fair share, {where}", median(seen.shares), 0.8, True),
        Goal(f"flooder's rate of alone, {where}", median(seen.kept), 0.9, True),
    ]


def _cells(seen: Seen) -> tuple[str, ...]:
    milliseconds = (
        f"{seconds * 1_000:.0f}"
        for taken in (seen.idle_s, seen.flood_s)
        for seconds in (median(taken), quantile(taken, 0.95))
    )
    return (
        seen.target,
        str(seen.streams),
        *milliseconds,
        f"{seen.stretch:.2f}",
        f"{median(seen.shares):.2f}",
        f"{median(seen.kept):.2f}",
    )
