"""Counts of tokens, as the model service tells them."""

from dataclasses import dataclass
from typing import Self

# No call has as many. More than this is taken for this.
MAX_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a call. Cached tokens are part of the input, reasoning tokens part of the output."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @classmethod
    def told(cls, input_tokens: int, cached_input_tokens: int, output_tokens: int, reasoning_tokens: int) -> Self:
        """Gives counts that another service told, each brought within what it can be."""
        whole_input, whole_output = _within(input_tokens, MAX_TOKENS), _within(output_tokens, MAX_TOKENS)
        cached, reasoning = _within(cached_input_tokens, whole_input), _within(reasoning_tokens, whole_output)
        return cls(whole_input, cached, whole_output, reasoning)

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def at_least(self, other: "TokenCounts") -> "TokenCounts":
        """Gives the greater of each count: counts only grow, whatever order they are told in."""
        return TokenCounts(
            max(self.input_tokens, other.input_tokens),
            max(self.cached_input_tokens, other.cached_input_tokens),
            max(self.output_tokens, other.output_tokens),
            max(self.reasoning_tokens, other.reasoning_tokens),
        )

    def plus(self, other: "TokenCounts") -> "TokenCounts":
        """Gives the sum."""
        return TokenCounts(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def minus(self, other: "TokenCounts") -> "TokenCounts":
        """Gives the difference."""
        return TokenCounts(
            self.input_tokens - other.input_tokens,
            self.cached_input_tokens - other.cached_input_tokens,
            self.output_tokens - other.output_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
        )


NOTHING = TokenCounts()


def _within(value: int, most: int) -> int:
    return min(max(value, 0), most)
