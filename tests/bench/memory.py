"""Whether the model service grows with the requests it has served."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing

from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.load import Ask, Target
from tests.bench.machine import resident_bytes
from tests.bench.prompts import Prompts
from tests.bench.site import running_site
from tests.bench.targets import site_targets

STOPS = (100, 1_000, 10_000)
AT_ONCE = 16
# One of so many requests is left after its first token.
CANCELLED = 5
LONGEST_ANSWER = 64
ABOUT = (
    f"Resident memory of the model service after so many requests, {AT_ONCE} at once and called without the edge: "
    f"short prompts and answers of 1 to 8 tokens, of two tenants; one of {CANCELLED} asks for {LONGEST_ANSWER} tokens "
    "and is cancelled at its first."
)


async def run(plan: Plan) -> Findings:
    """Sends requests and weighs the process."""
    weights: dict[int, int] = {}
    async with AsyncExitStack() as stack:
        site = stack.enter_context(running_site(plan.model))
        ways = await site_targets(site.site, site.keys, stack)
        process = site.site.processes()["model"]
        stops = plan.pick(STOPS, (10, 30))
        asks = _asks(stops[-1])
        done = 0
        for stop in stops:
            plan.tell(f"up to {stop:,} requests")
            batch = [ask for _, ask in zip(range(stop - done), asks, strict=False)]
            await _send(ways.model, batch)
            done = stop
            weights[stop] = resident_bytes(process)
    return _findings(weights)


def _asks(count: int) -> Iterator[tuple[Ask, bool]]:
    """Gives the requests, and of each whether it is to be cancelled."""
    chance, prompts = random.Random(1), Prompts()
    for number in range(count):
        turns = prompts.turns(prompts.passage(chance.randint(2, 12)))
        cancelled = chance.randrange(CANCELLED) == 0
        tokens = LONGEST_ANSWER if cancelled else chance.randint(1, 8)
        yield Ask(("acme", "globex")[number % 2], turns, tokens), cancelled


async def _send(target: Target, batch: list[tuple[Ask, bool]]) -> None:
    """Sends the requests, so many at once."""
    left = iter(batch)

    async def work() -> None:
        for ask, cancelled in left:
            async with aclosing(target.open(ask)) as stream:
                async for arrival in stream:
                    if cancelled and arrival.tokens:
                        break

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _findings(weights: dict[int, int]) -> Findings:
    stops = list(weights)
    first, last = weights[stops[-2]], weights[stops[-1]]
    rows = tuple((f"{stop:,}", f"{weight / 2**20:.0f}", f"{weight / first:.3f}") for stop, weight in weights.items())
    heading = f"of {stops[-2]:,} requests'"
    table = Table("Memory of the model service", ("requests", "resident, MiB", heading), rows)
    text = f"memory after {stops[-1]:,} requests of that after {stops[-2]:,}"
    data = {"rss_bytes": {str(stop): weight for stop, weight in weights.items()}}
    return Findings("memory", ABOUT, (table,), (Goal(text, last / first, 1.05, False),), data)
