"""What it costs that four tenants have an adapter each, whose sequences can't share a step."""

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from tests.bench.figures import jain_index
from tests.bench.findings import Findings, Plan, Table
from tests.bench.in_process import LocalEngine, Workshop
from tests.bench.load import Endless, endless, rate_over
from tests.bench.prompts import Prompts
from tests.fakes.lora_adapter import SMOLLM2, LoraSpec, write_lora

TENANTS = ("acme", "globex", "initech", "umbrella")
STREAMS = (1, 4)
ABOUT = (
    "Four tenants with endless streams each: once all on the base model, where all share each step, and once each on "
    "a LoRA adapter of its own (rank 4, the query projections of four layers), where each step is one adapter's and "
    "they take turns by the fair-share rule. llama.cpp applies adapters to a whole context, so the most that four "
    "can reach is the rate of a batch a fourth as large."
)


async def run(plan: Plan) -> Findings:
    """Compares the two, in turns."""
    rows, data = [], []
    async with AsyncExitStack() as stack:
        workshop = Workshop(plan.model, stack)
        base, adapted = await workshop.engine("base"), await workshop.engine("adapters")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redoma-bench-")))
        for seed, tenant in enumerate(TENANTS, 1):
            file = write_lora(folder / f"{seed}.gguf", LoraSpec("llama", SMOLLM2, seed=seed, strength=0.01))
            await adapted.adopt(tenant, file)
        for streams in plan.pick(STREAMS, (2,)):
            taken: list[tuple[list[float], list[float]]] = []
            for turn in range(plan.rounds):
                plan.tell(f"round {turn + 1} of {plan.rounds}, {streams} streams a tenant")
                taken.append((await _rates(plan, base, streams, turn), await _rates(plan, adapted, streams, turn)))
            figures = {
                "streams": streams,
                "base_rate": median(sum(on_base) for on_base, _ in taken),
                "adapters_rate": median(sum(on_adapters) for _, on_adapters in taken),
                "ratio": median(sum(on_adapters) / sum(on_base) for on_base, on_adapters in taken),
                "base_jain": median(jain_index(on_base) for on_base, _ in taken),
                "adapters_jain": median(jain_index(on_adapters) for _, on_adapters in taken),
            }
            data.append(figures)
            rows.append(tuple(f"{value:.3g}" for value in figures.values()))
    headings = ("streams a tenant", "base, tokens/s", "adapters, tokens/s", "ratio", "Jain, base", "Jain, adapters")
    return Findings("adapters", ABOUT, (Table("Four adapters", headings, tuple(rows)),), (), {"adapters": data})


async def _rates(plan: Plan, engine: LocalEngine, streams: int, turn: int) -> list[float]:
    """Gives each tenant's tokens per second."""
    async with AsyncExitStack() as stack:
        seen: list[Endless] = []
        for place, tenant in enumerate(TENANTS):
            seeds = range(100 * (turn + 1) + 10 * place, 100 * (turn + 1) + 10 * place + streams)
            asks = [Prompts(seed).stories(tenant, 200, 400) for seed in seeds]
            seen.append(await stack.enter_async_context(endless(engine, asks)))
        for one in seen:
            await one.wait_running(streams)
        rates = await rate_over(seen, plan.pick(15.0, 2.0))
    for tenant in TENANTS:
        await engine.purge(tenant)
    return rates
