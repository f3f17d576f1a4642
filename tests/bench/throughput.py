"""Token rate by concurrency: a bare loop over llama.cpp, the engine, the model service, and the ways by the edge."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Protocol

from redoma_model.engine.hardware import physical_cores
from tests.bench.bare_loop import BareLoop, Tokens
from tests.bench.figures import median_ratio, rotated
from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.in_process import LocalEngine, Workshop
from tests.bench.load import Ask, Sample, Target, measure
from tests.bench.prompts import Prompts
from tests.bench.site import running_site
from tests.bench.targets import site_targets

CONCURRENCIES = (1, 8, 16, 32)
TOKENS = 128
SLOTS, CELLS = 32, 16_384
TENANT = "acme"
BARE, CORE, ENGINE, SSE = "bare loop", "engine's core", "engine", "edge, bare SSE"
ABOUT = (
    "Streams that all start at once and generate 128 tokens each, after prompts that share no cached prefix; the "
    "rate is all tokens over the time from the first request to the last token, prompts included. The bare loop is "
    "one llama_batch over all sequences and one sampler chain each, in the engine's own process, with prompts "
    "computed in batches of the engine's size. The engine's core is all that the engine does in a step, with no "
    "reader in its process; the engine has an event loop beside it that reads every stream and takes processor time "
    "from llama.cpp's threads; the readers of the others are another process. A full batch is the time in which all "
    "streams generate: at the same batch the loops can be compared, while before it the engine lets those that have "
    "begun go on and the bare loop computes prompts alone. All take turns within each round; "
    "rates are medians, ratios are medians of the rounds' ratios."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One target at one concurrency, over all rounds."""

    target: str
    concurrency: int
    tokens_per_s: float
    of_bare: float
    of_bare_full: float
    of_engine: float
    deltas_per_token: float
    first_token_s: float


class Loop(Protocol):
    """A way to a model that waits for all its streams."""

    def measure(self, prompts: Sequence[Tokens], tokens: int) -> Sample:
        """Generates `tokens` tokens after each prompt."""
        ...


Samples = Mapping[tuple[str, int], Sequence[Sample]]


async def run(plan: Plan) -> Findings:
    """Measures every target at every concurrency, in turns."""
    async with AsyncExitStack() as stack:
        site = stack.enter_context(running_site(plan.model, slots=SLOTS, kv_cells=CELLS))
        ways = await site_targets(site.site, site.keys, stack)
        workshop = Workshop(plan.model, stack)
        core = workshop.core(slots=SLOTS, kv_cells=CELLS)
        local = await workshop.engine(ENGINE, slots=SLOTS, kv_cells=CELLS)
        step_tokens = local.settings.effective_step_tokens
        bare = BareLoop(plan.model, SLOTS, CELLS, step_tokens, local.settings.threads or physical_cores())
        stack.callback(bare.close)
        targets: list[Target] = [local, ways.model, ways.sse, ways.conversation, ways.openai]
        samples = await _take_turns(plan, {BARE: bare, CORE: core}, local, targets)
    return _findings(samples)


async def _take_turns(plan: Plan, loops: Mapping[str, Loop], local: LocalEngine, targets: list[Target]) -> Samples:
    prompts = Prompts()
    concurrencies, tokens = plan.pick(CONCURRENCIES, (1, 4)), plan.pick(TOKENS, 12)
    samples: dict[tuple[str, int], list[Sample]] = {}

    def asks(concurrency: int, tokens: int) -> list[Ask]:
        return [prompts.story(TENANT, tokens) for _ in range(concurrency)]

    def run_loop(name: str, asks: Sequence[Ask], tokens: int) -> Sample:
        return loops[name].measure([local.tokens_of(ask) for ask in asks], tokens)

    for name in loops:
        run_loop(name, asks(1, 8), 8)
    for target in targets:
        plan.tell(f"warming up {target.name}")
        await measure(target, asks(1, 8))
    by_name = {target.name: target for target in targets}
    for turn in range(plan.rounds):
        for concurrency in concurrencies:
            said = f"round {turn + 1} of {plan.rounds}, {concurrency} streams"
            # Each round begins with another one: what runs first finds the processor at its coolest.
            for name in rotated([*loops, *by_name], turn):
                plan.tell(f"{said}, {name}")
                if name in loops:
                    sample = run_loop(name, asks(concurrency, tokens), tokens)
                else:
                    sample = await measure(by_name[name], asks(concurrency, tokens))
                    await by_name[name].purge(TENANT)
                samples.setdefault((name, concurrency), []).append(sample)
    return samples


def _findings(samples: Samples) -> Findings:
    rows = _rows(samples)
    headings = (
        *("streams", "target", "tokens/s", "of the bare loop", "at a full batch"),
        *("of the engine", "deltas/token", "first token, ms"),
    )
    table = Table("Token rate", headings, tuple(map(_cells, rows)))
    goals = [
        Goal(f"{text}, {row.concurrency} streams", value(row), bound, True)
        for text, target, bound, value in _GOALS
        for row in rows
        if row.target == target and row.concurrency in (8, 16)
    ]
    return Findings("throughput", ABOUT, (table,), tuple(goals), {"rows": [asdict(row) for row in rows]})


_GOALS: tuple[tuple[str, str, float, Callable[[Row], float]], ...] = (
    ("engine's rate of the bare loop's at a full batch", CORE, 0.97, lambda row: row.of_bare_full),
    ("edge's rate (SSE) of the bare loop's at a full batch", SSE, 0.93, lambda row: row.of_bare_full),
    ("deltas for each token by the edge (SSE)", SSE, 0.98, lambda row: row.deltas_per_token),
)


def _rows(samples: Samples) -> list[Row]:
    rates = {key: [sample.tokens_per_s for sample in taken] for key, taken in samples.items()}
    full = {key: [sample.full_batch_per_s for sample in taken] for key, taken in samples.items()}
    rows = [
        Row(
            target,
            concurrency,
            median(rates[target, concurrency]),
            median_ratio(rates[target, concurrency], rates[BARE, concurrency]),
            median_ratio(full[target, concurrency], full[BARE, concurrency]),
            median_ratio(rates[target, concurrency], rates[ENGINE, concurrency]),
            median(sample.deltas_per_token for sample in taken),
            median(sample.median_first_token_s for sample in taken),
        )
        for (target, concurrency), taken in samples.items()
    ]
    return sorted(rows, key=lambda row: row.concurrency)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.concurrency),
        row.target,
        f"{row.tokens_per_s:.0f}",
        f"{row.of_bare:.3f}",
        f"{row.of_bare_full:.3f}",
        f"{row.of_engine:.3f}",
        f"{row.deltas_per_token:.3f}",
        f"{row.first_token_s * 1_000:.0f}",
    )
