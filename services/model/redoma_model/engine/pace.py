"""How long a step takes, learned from the steps that were computed, and how large the next one may be.

A step's time is close to a sum: something fixed, something for each row that generates, something for each prompt
token, and something for each token of context that a prompt's tokens attend to. The first two are fitted to steps
that only generate, the others to what steps with prompts take beyond that; by least squares, with older steps
counting less. From them follow how many prompt tokens keep the running streams near their pace, whether drafts pay,
and whether a deadline can be met.
"""

from collections import deque
from dataclasses import dataclass

# The weight of a step falls to half after some 23 steps of its kind: those with prompts, or those without.
DECAY = 0.97
# A step that took this many times what was expected counts as this many times: the machine was busy with something
# else.
OUTLIER = 3.0
# How much the former estimate counts against all the steps that are remembered.
FORMER_WEIGHT = 0.05
# Steps until the fit is trusted.
ENOUGH_STEPS = 6
# The least chunk of a prompt, so that it comes to its end however slow the machine is.
LEAST_CHUNK = 2
# The longest a step of prompts alone should take, which is what a newcomer may have to wait: so many seconds, or so
# many times what is fixed of it.
LONE_STEP_S = 0.2
LONE_STRETCH = 4.0
RECENT_STEPS = 256
# Context is counted in so many tokens, which keeps what is fitted of like size.
CONTEXT_UNIT = 1_000.0


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """How steps are to be sized.

    Attributes:
        step_tokens: Most tokens of a step.
        stretch: How many times as long as a step that only generates one with prompts may take.
        inter_token_s: Seconds between two tokens of a stream to aim at, in place of `stretch`; 0 leaves it to
            `stretch`.
    """

    step_tokens: int
    stretch: float = 2.7
    inter_token_s: float = 0.0


class _Fit:
    """Two costs, of which each observation has so much, fitted by least squares; both are at least 0."""

    __slots__ = ("_sums", "first", "second", "seen")

    def __init__(self) -> None:
        self._sums = [0.0] * 6
        self.first = 0.0
        self.second = 0.0
        self.seen = 0

    def learn(self, one: float, other: float, total: float) -> None:
        """Learns that so much of the first and so much of the second cost make `total`."""
        self.seen += 1
        new = (1.0, one * one, one * other, other * other, one * total, other * total)
        self._sums = [DECAY * old + more for old, more in zip(self._sums, new, strict=True)]
        weight, ones, cross, others, one_total, other_total = self._sums
        if self.seen == 1:
            self.first = total / (one + other)
            self.second = self.first if other else 0.0
        # What the last observations don't tell stays as it was: a little weight on the former estimate sees to it.
        former = FORMER_WEIGHT * weight
        ones, others = ones + former, others + former
        one_total, other_total = one_total + former * self.first, other_total + former * self.second
        over = ones * others - cross * cross
        self.first = max(0.0, (one_total * others - other_total * cross) / over)
        self.second = max(0.0, (other_total - cross * self.first) / others)


class Pace:
    """The learned cost of steps. Not thread-safe: the engine's thread owns it."""

    def __init__(self, limits: PaceLimits) -> None:
        self.limits = limits
        self.recent_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self.steps = 0
        # Tokens before each row of the last step that only generated, on average.
        self._row_context = 0.0
        self._rows = _Fit()
        self._prompts = _Fit()

    @property
    def fixed_s(self) -> float:
        """What a step takes whatever is in it, in seconds."""
        return self._rows.first

    @property
    def row_s(self) -> float:
        """What a row that generates takes."""
        return self._rows.second

    @property
    def known(self) -> bool:
        """Whether enough steps were seen to tell what rows take."""
        return self._rows.seen >= ENOUGH_STEPS

    @property
    def knows_prompts(self) -> bool:
        """Whether enough steps with prompts were seen to tell what a prompt takes."""
        return self._prompts.seen >= ENOUGH_STEPS

    def observe(
        self, rows: int, prompt_tokens: int, duration_s: float, context_tokens: int = 0, rows_context: int = 0
    ) -> None:
        """Learns from a step.

        Args:
            rows: How many generated.
            prompt_tokens: How many tokens of prompts were computed.
            duration_s: How long it took.
            context_tokens: The tokens before each of those of prompts, added up.
            rows_context: The tokens before each of the rows, added up.
        """
        self.steps += 1
        self.recent_s.append(duration_s)
        more_context = self._more_context(rows, rows_context)
        expected_s = self.step_s(rows, prompt_tokens, context_tokens + more_context)
        if (self.knows_prompts if prompt_tokens else self.known) and expected_s > 0:
            duration_s = min(duration_s, OUTLIER * expected_s)
        if not prompt_tokens:
            self._rows.learn(1.0, float(rows), duration_s)
            self._row_context = rows_context / max(1, rows)
        else:
            beyond_s = duration_s - self.step_s(rows, 0) if self.known else duration_s
            self._prompts.learn(float(prompt_tokens), (context_tokens + more_context) / CONTEXT_UNIT, beyond_s)

    def _more_context(self, rows: int, rows_context: float) -> float:
        """Gives the context that rows have beyond what they had when they were last alone in a step."""
        return max(0.0, rows_context - rows * self._row_context)

    def step_s(self, rows: int, prompt_tokens: int, context_tokens: float = 0.0) -> float:
        """Gives how long such a step takes, in seconds."""
        rows_s = self.fixed_s + self.row_s * rows
        return rows_s + self._prompts.first * prompt_tokens + self._prompts.second * context_tokens / CONTEXT_UNIT

    def rows_s(self, rows: int, rows_context: float) -> float:
        """Gives how long a step takes that only generates."""
        return self.step_s(rows, 0, self._more_context(rows, rows_context))

    def prompt_token_s(self, depth: float) -> float:
        """Gives what a prompt token takes behind so many others, in seconds; as much as a row until that is known."""
        if not self.knows_prompts:
            return self.row_s
        return self._prompts.first + self._prompts.second * depth / CONTEXT_UNIT

    def most_rows(self) -> int:
        """Gives how many rows a step may generate."""
        most = self.limits.step_tokens
        target_s = self.limits.inter_token_s
        if not target_s or not self.known or self.row_s <= 0:
            return most
        return max(1, min(most, int((target_s - self.fixed_s) / self.row_s)))

    def prompt_tokens(
        self, rows: int, longest_s: float = float("inf"), rows_context: float = 0.0, depth: float = 0.0
    ) -> int:
        """Gives how many prompt tokens may go with `rows` that generate.

        Args:
            rows: Of the step.
            longest_s: The longest the step should take for another reason than the limits.
            rows_context: The tokens before each of the rows, added up.
            depth: The tokens before those of the prompt.
        """
        most = self.limits.step_tokens - rows
        token_s = self.prompt_token_s(depth)
        if not self.known or token_s <= 0:
            return most
        if rows == 0:
            room_s = max(LONE_STEP_S, LONE_STRETCH * self.fixed_s) - self.fixed_s
        else:
            rows_s = self.rows_s(rows, rows_context)
            room_s = min(self.limits.inter_token_s or self.limits.stretch * rows_s, longest_s) - rows_s
        return max(min(LEAST_CHUNK, most), min(most, int(room_s / token_s)))

    def draft_pays(self, rows: int, chance: float) -> bool:
        """Tells whether one more row that is taken with this chance brings more tokens in a step of `rows` than it
        costs."""
        if not self.known or self.row_s <= 0:
            return False
        return chance * self.step_s(rows, 0) > rows * self.row_s
