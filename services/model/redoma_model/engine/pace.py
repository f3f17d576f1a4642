"""How long a step takes, learned from the steps that were computed, and how large the next one may be.

A step's time is close to a sum: something fixed, something for each row that generates and something for each prompt
token. The three are fitted to the last steps by least squares, with older steps counting less. From them follow how
many prompt tokens keep the running streams near their pace, whether drafts pay, and whether a deadline can be met.
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
RECENT_STEPS = 256


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
        # Sums of weight, rows, prompt tokens, and of their products with each other and with time.
        self._sums = [0.0] * 9
        self._weight = 0.0
        self.fixed_s = 0.0
        self.row_s = 0.0
        self.prompt_s = 0.0

    @property
    def known(self) -> bool:
        """Whether enough steps were seen to tell."""
        return self.steps >= ENOUGH_STEPS

    @property
    def knows_prompts(self) -> bool:
        """Whether enough steps with prompts were seen to tell what a prompt takes."""
        return self._prompt_steps >= ENOUGH_STEPS

    def observe(self, rows: int, prompt_tokens: int, duration_s: float) -> None:
        """Learns from a step: how many rows generated, how many prompt tokens were computed, and how long it took."""
        self.steps += 1
        self._prompt_steps += prompt_tokens > 0
        self.recent_s.append(duration_s)
        if self.known and (expected_s := self.step_s(rows, prompt_tokens)) > 0:
            duration_s = min(duration_s, OUTLIER * expected_s)
        values = (1.0, float(rows), float(prompt_tokens))
        products = [left * right for place, left in enumerate(values) for right in values[place:]]
        products += [value * duration_s for value in values]
        self._sums = [DECAY * old + new for old, new in zip(self._sums, products, strict=True)]
        self._fit()

    def step_s(self, rows: int, prompt_tokens: int) -> float:
        """Gives how long such a step takes, in seconds."""
        return self.fixed_s + self.row_s * rows + self.prompt_s * prompt_tokens

    def most_rows(self) -> int:
        """Gives how many rows a step may generate."""
        most = self.limits.step_tokens
        target_s = self.limits.inter_token_s
        if not target_s or not self.known or self.row_s <= 0:
            return most
        return max(1, min(most, int((target_s - self.fixed_s) / self.row_s)))

    def prompt_tokens(self, rows: int, longest_s: float = float("inf")) -> int:
        """Gives how many prompt tokens may go with `rows` that generate.

        Args:
            rows: Of the step.
            longest_s: The longest the step should take for another reason than the limits.
        """
        most = self.limits.step_tokens - rows
        if rows == 0 or not self.known or self.prompt_s <= 0:
            return most
        rows_s = self.step_s(rows, 0)
        target_s = min(self.limits.inter_token_s or self.limits.stretch * rows_s, longest_s)
        return max(min(LEAST_CHUNK, most), min(most, int((target_s - rows_s) / self.prompt_s)))

    def draft_pays(self, rows: int, chance: float) -> bool:
        """Tells whether one more row that is taken with this chance brings more tokens in a step of `rows` than it
        costs."""
        if not self.known or self.row_s <= 0:
            return False
        return chance * self.step_s(rows, 0) > rows * self.row_s

    def _fit(self) -> None:
        weight, rows, prompt, rows2, rows_prompt, prompt2, time, rows_time, prompt_time = self._sums
        if self.steps == 1:
            self.fixed_s = self.row_s = self.prompt_s = time / (rows + prompt + 1.0)
        # What the last steps don't tell stays as it was: a little weight on the former estimate sees to it.
        former = FORMER_WEIGHT * weight
        solved = _solve(
            (weight + former, rows, prompt),
            (rows, rows2 + former, rows_prompt),
            (prompt, rows_prompt, prompt2 + former),
            (time + former * self.fixed_s, rows_time + former * self.row_s, prompt_time + former * self.prompt_s),
        )
        self.fixed_s, self.row_s, self.prompt_s = (max(0.0, value) for value in solved)


_Triple = tuple[float, float, float]


def _solve(first: _Triple, second: _Triple, third: _Triple, right: _Triple) -> _Triple:
    """Solves a symmetric system of three equations by Cramer's rule."""
    (a, b, c), (_, d, e), (_, _, f) = first, second, third
    x, y, z = right
    over = a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d)
    return (
        (x * (d * f - e * e) - b * (y * f - z * e) + c * (y * e - z * d)) / over,
        (a * (y * f - z * e) - x * (b * f - c * e) + c * (b * z - c * y)) / over,
        (a * (d * z - e * y) - b * (b * z - c * y) + x * (b * e - c * d)) / over,
    )
