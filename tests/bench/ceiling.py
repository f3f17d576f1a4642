"""The front end's ceiling as a bench of the suite; `front_end` measures it."""

from dataclasses import asdict
from statistics import median

from tests.bench.findings import Findings, Plan, Table
from tests.bench.front_end import SERVICES, STREAMS, TOKENS_PER_S, WINDOW_S, Ceiling, measure_front_end

COLUMNS = (*SERVICES, "client")
ABOUT = (
    f"A fake engine that costs next to nothing gives {TOKENS_PER_S:,.0f} tokens a second over {STREAMS} streams, in "
    "the model service's place; what arrives is counted on each way to it. Where a process can't keep up, deltas "
    "hold more tokens each. Processor seconds are those of each process for 1,000 tokens that arrived; client and "
    "services share one machine, so what all of them cost together bounds the rate."
)


async def run(plan: Plan) -> Findings:
    """Measures every way in each round, one after the other."""
    streams, window_s = plan.pick(STREAMS, 16), plan.pick(WINDOW_S, 1.0)
    taken: dict[str, list[Ceiling]] = {}
    for turn in range(plan.rounds):
        plan.tell(f"round {turn + 1} of {plan.rounds}")
        for one in await measure_front_end(TOKENS_PER_S, streams, window_s):
            taken.setdefault(one.way, []).append(one)
    headings = ("way", "tokens/s", "deltas/s", "tokens a delta", *(f"{name}, s" for name in COLUMNS), "failed")
    table = Table("The front end under a fast model", headings, tuple(_cells(way, seen) for way, seen in taken.items()))
    return Findings(
        "front_end", ABOUT, (table,), (), {way: [asdict(one) for one in seen] for way, seen in taken.items()}
    )


def _cells(way: str, seen: list[Ceiling]) -> tuple[str, ...]:
    costs = (f"{median(one.cpu_s_per_1000_tokens[name] for one in seen):.3f}" for name in COLUMNS)
    return (
        way,
        f"{median(one.tokens_per_s for one in seen):,.0f}",
        f"{median(one.deltas_per_s for one in seen):,.0f}",
        f"{median(one.tokens_per_delta for one in seen):.2f}",
        *costs,
        str(sum(one.failed for one in seen)),
    )
