"""How long a step takes, learned from the steps that were computed, and how large the next one may be.

A step's time is close to a sum: something fixed, something for each row that generates, something for each prompt
token, and something for each token of context that each of them attends to. The four are fitted to the last steps by
least squares, with older steps counting less. From them follow how many prompt tokens keep the running streams near
their pace, whether drafts pay, and whether a deadline can be met.
"""

from collections import deque
from dataclasses import dataclass

# The weight of a step falls to half after some 35 steps.
DECAY = 0.98
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
# What a step's time is made of: fixed, rows, prompt tokens, context.
COSTS = 4
# Context is counted in so many tokens, which keeps the four of like size.
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
    stretch: float = 2.6
    inter_token_s: float = 0.0


class Pace:
    """The learned cost of steps. Not thread-safe: the engine's thread owns it."""

    def __init__(self, limits: PaceLimits) -> None:
        self.limits = limits
        self.recent_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self.steps = 0
        self._prompt_steps = 0
        # Sums of the products of what steps had, with each other and with their time; see `_had`.
        self._products = [[0.0] * COSTS for _ in range(COSTS)]
        self._times = [0.0] * COSTS
        self.fixed_s = 0.0
        self.row_s = 0.0
        self.prompt_s = 0.0
        self.context_s = 0.0

    @property
    def known(self) -> bool:
        """Whether enough steps were seen to tell."""
        return self.steps >= ENOUGH_STEPS

    @property
    def knows_prompts(self) -> bool:
        """Whether enough steps with prompts were seen to tell what a prompt takes."""
        return self._prompt_steps >= ENOUGH_STEPS

    def observe(self, rows: int, prompt_tokens: int, duration_s: float, context_tokens: int = 0) -> None:
        """Learns from a step.

        Args:
            rows: How many generated.
            prompt_tokens: How many tokens of prompts were computed.
            duration_s: How long it took.
            context_tokens: The tokens before each of those, added up.
        """
        self.steps += 1
        self._prompt_steps += prompt_tokens > 0
        self.recent_s.append(duration_s)
        if self.known and (expected_s := self.step_s(rows, prompt_tokens, context_tokens)) > 0:
            duration_s = min(duration_s, OUTLIER * expected_s)
        had = (1.0, float(rows), float(prompt_tokens), context_tokens / CONTEXT_UNIT)
        for place, amount in enumerate(had):
            row = self._products[place]
            for other in range(COSTS):
                row[other] = DECAY * row[other] + amount * had[other]
            self._times[place] = DECAY * self._times[place] + amount * duration_s
        if self.steps == 1:
            self.fixed_s = self.row_s = self.prompt_s = duration_s / (rows + prompt_tokens + 1.0)
        self._fit()

    def step_s(self, rows: int, prompt_tokens: int, context_tokens: float = 0.0) -> float:
        """Gives how long such a step takes, in seconds."""
        return (
            self.fixed_s
            + self.row_s * rows
            + self.prompt_s * prompt_tokens
            + self.context_s * context_tokens / CONTEXT_UNIT
        )

    def prompt_token_s(self, depth: float) -> float:
        """Gives what a prompt token takes behind so many others, in seconds."""
        return self.prompt_s + self.context_s * depth / CONTEXT_UNIT

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
            target_s = max(LONE_STEP_S, LONE_STRETCH * self.fixed_s)
            return max(min(LEAST_CHUNK, most), min(most, int((target_s - self.fixed_s) / token_s)))
        rows_s = self.step_s(rows, 0, rows_context)
        target_s = min(self.limits.inter_token_s or self.limits.stretch * rows_s, longest_s)
        return max(min(LEAST_CHUNK, most), min(most, int((target_s - rows_s) / token_s)))

    def draft_pays(self, rows: int, chance: float) -> bool:
        """Tells whether one more row that is taken with this chance brings more tokens in a step of `rows` than it
        costs."""
        if not self.known or self.row_s <= 0:
            return False
        return chance * self.step_s(rows, 0) > rows * self.row_s

    def _fit(self) -> None:
        # What the last steps don't tell stays as it was: a little weight on the former estimate sees to it.
        former_weight = FORMER_WEIGHT * self._products[0][0]
        formers = (self.fixed_s, self.row_s, self.prompt_s, self.context_s)
        rows = [
            [*self._products[place], self._times[place] + former_weight * former]
            for place, former in enumerate(formers)
        ]
        for place in range(COSTS):
            rows[place][place] += former_weight
        solved = (max(0.0, value) for value in _solve(rows))
        self.fixed_s, self.row_s, self.prompt_s, self.context_s = solved


def _solve(rows: list[list[float]]) -> list[float]:
    """Solves linear equations by elimination: each row has the coefficients, then the right side. The matrix is
    positive definite, so no pivot is zero."""
    size = len(rows)
    for place in range(size):
        pivot = rows[place]
        for below in rows[place + 1 :]:
            factor = below[place] / pivot[place]
            for column in range(place, size + 1):
                below[column] -= factor * pivot[column]
    solved = [0.0] * size
    for place in reversed(range(size)):
        known = sum(rows[place][column] * solved[column] for column in range(place + 1, size))
        solved[place] = (rows[place][size] - known) / rows[place][place]
    return solved
