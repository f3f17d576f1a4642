"""What prompt lookup brings where answers quote their prompt, and what it costs where they don't."""

from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import median

from tests.bench.figures import median_ratio
from tests.bench.findings import Findings, Plan, Table
from tests.bench.in_process import LocalEngine, Workshop
from tests.bench.load import Ask, measure
from tests.bench.prompts import Prompts

TENANT = "acme"
CONCURRENCIES = (1, 4, 8)
TOKENS = 128
PASSAGE_WORDS = 160
QUOTE, STORY = "quote", "story"
ABOUT = (
    f"Two tasks, {TOKENS} tokens a stream, on an engine with speculation and on one without, in turns. Quote: the "
    f"prompt holds a text of {PASSAGE_WORDS} words and asks to repeat it, at temperature 0. Story: nothing to quote, "
    "at temperature 0.8. Drafted and taken are tokens proposed and picked, as parts of all tokens generated and of "
    "those proposed."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One task at one concurrency, over all rounds."""

    task: str
    streams: int
    plain_rate: float
    lookup_rate: float
    ratio: float
    drafted: float
    taken: float


async def run(plan: Plan) -> Findings:
    """Compares the two engines at both tasks."""
    async with AsyncExitStack() as stack:
        workshop = Workshop(plan.model, stack)
        plain = await workshop.engine("plain", speculation=False)
        lookup = await workshop.engine("lookup", speculation=True)
        rows = [
            await _compare(plan, plain, lookup, task, streams)
            for task in (QUOTE, STORY)
            for streams in plan.pick(CONCURRENCIES, (1, 4))
        ]
    headings = ("task", "streams", "without, tokens/s", "with, tokens/s", "ratio", "drafted", "taken")
    table = Table("Prompt lookup", headings, tuple(map(_cells, rows)))
    return Findings("lookup", ABOUT, (table,), (), {"rows": [asdict(row) for row in rows]})


async def _compare(plan: Plan, plain: LocalEngine, lookup: LocalEngine, task: str, streams: int) -> Row:
    tokens = plan.pick(TOKENS, 16)
    rates: dict[str, list[float]] = {plain.name: [], lookup.name: []}
    before = await lookup.snapshot()
    for turn in range(plan.rounds):
        plan.tell(f"round {turn + 1} of {plan.rounds}, {task}, {streams} streams")
        for engine in (plain, lookup):
            prompts = Prompts(turn)
            sample = await measure(engine, [_ask(task, prompts, tokens) for _ in range(streams)])
            rates[engine.name].append(sample.tokens_per_s)
            await engine.purge(TENANT)
    after = await lookup.snapshot()
    drafted = after.drafted_tokens - before.drafted_tokens
    return Row(
        task,
        streams,
        median(rates[plain.name]),
        median(rates[lookup.name]),
        median_ratio(rates[lookup.name], rates[plain.name]),
        drafted / (after.output_tokens - before.output_tokens),
        (after.accepted_draft_tokens - before.accepted_draft_tokens) / max(1, drafted),
    )


def _ask(task: str, prompts: Prompts, tokens: int) -> Ask:
    if task == STORY:
        return prompts.story(TENANT, tokens)
    content = f"Repeat this text word for word, from its beginning:\n\n{prompts.passage(PASSAGE_WORDS)}"
    return Ask(TENANT, prompts.turns(content), tokens, temperature=0.0)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.task,
        str(row.streams),
        f"{row.plain_rate:.0f}",
        f"{row.lookup_rate:.0f}",
        f"{row.ratio:.2f}",
        f"{row.drafted:.2f}",
        f"{row.taken:.2f}",
    )
