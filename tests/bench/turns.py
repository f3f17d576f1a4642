"""The first token of later turns of a conversation, with what was computed before still there and without."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.in_process import LocalEngine, Workshop
from tests.bench.load import Ask, Target, Turn, read
from tests.bench.prompts import Prompts
from tests.bench.site import running_site
from tests.bench.targets import site_targets

HISTORY_TOKENS = 1_500
LAST_TURN = 10
ANSWER_TOKENS = 24
QUESTION_WORDS = 16
WARM, COLD = "acme", "globex"
ABOUT = (
    f"A conversation whose first turn holds some {HISTORY_TOKENS:,} tokens, then turns 2 to {LAST_TURN} of "
    f"{QUESTION_WORDS} words, each answered with {ANSWER_TOKENS} tokens. Each turn is sent twice, in turns: by the "
    "tenant that had the conversation so far, and by one of whom nothing is cached."
)


@dataclass(frozen=True, slots=True)
class Answered:
    """The times to first token of one turn of one conversation, in seconds."""

    target: str
    turn: int
    warm_s: float
    cold_s: float


async def run(plan: Plan) -> Findings:
    """Holds conversations with the engine and with a site."""
    answered: list[Answered] = []
    async with AsyncExitStack() as stack:
        local = await Workshop(plan.model, stack).engine("engine")
        site = stack.enter_context(running_site(plan.model))
        ways = await site_targets(site.site, site.keys, stack)
        for number in range(plan.rounds):
            for target in (local, ways.sse):
                plan.tell(f"round {number + 1} of {plan.rounds}, {target.name}")
                answered += await _converse(plan, target, _opening(local, plan, Prompts(number)), Prompts(number))
    return _findings(answered)


def _opening(local: LocalEngine, plan: Plan, prompts: Prompts) -> tuple[Turn, ...]:
    """Gives a first turn of about as many tokens as the history is to have."""
    wanted, words = plan.pick(HISTORY_TOKENS, 200), 100
    while True:
        turns = prompts.turns(prompts.passage(words))
        size = len(local.tokens_of(Ask(WARM, turns, 1)))
        if size >= wanted:
            return turns
        words = max(words + 1, words * wanted // size)


async def _converse(plan: Plan, target: Target, opening: tuple[Turn, ...], prompts: Prompts) -> list[Answered]:
    answered: list[Answered] = []
    await target.purge(WARM)
    turns = opening
    for turn in range(1, plan.pick(LAST_TURN, 3) + 1):
        await target.purge(COLD)
        cold = await read(target, Ask(COLD, turns, ANSWER_TOKENS))
        warm = await read(target, Ask(WARM, turns, ANSWER_TOKENS, keeps_text=True))
        if turn > 1:
            answered.append(Answered(target.name, turn, warm.first_token_s, cold.first_token_s))
        turns += (("assistant", warm.text), ("user", prompts.passage(QUESTION_WORDS)))
    return answered


def _findings(answered: Sequence[Answered]) -> Findings:
    targets = list(dict.fromkeys(one.target for one in answered))
    rows, goals, data = [], [], []
    for target in targets:
        for turn in sorted({one.turn for one in answered}):
            same = [one for one in answered if one.target == target and one.turn == turn]
            warm_s, cold_s = median(one.warm_s for one in same), median(one.cold_s for one in same)
            ratio = median(one.warm_s / one.cold_s for one in same)
            rows.append((target, str(turn), f"{cold_s * 1_000:.0f}", f"{warm_s * 1_000:.0f}", f"{ratio:.3f}"))
            data.append({"target": target, "turn": turn, "warm_s": warm_s, "cold_s": cold_s, "ratio": ratio})
        ratio = median(one.warm_s / one.cold_s for one in answered if one.target == target)
        goals.append(Goal(f"warm first token of cold, {target}", ratio, 0.05, False))
    headings = ("target", "turn", "cold, ms", "warm, ms", "ratio")
    table = Table("First token of the turns of a conversation", headings, tuple(rows))
    return Findings("turns", ABOUT, (table,), tuple(goals), {"turns": data})
