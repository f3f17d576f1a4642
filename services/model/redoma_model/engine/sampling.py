"""How the next token is picked: one request's parameters, complete and checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from redoma_kit.errors import InvalidField

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_BIASES = 1_024
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a request, or the model's defaults.

    Attributes:
        temperature: Divides the logits; 0 is greedy.
        top_p: Keeps the smallest set of tokens whose probabilities add up to this; 1 keeps all.
        top_k: Keeps this many most probable tokens; 0 keeps all.
        min_p: Drops tokens less probable than this times the most probable one; 0 keeps all.
        repeat_penalty: Applies to tokens of the prompt and of the answer; 1 is none.
        presence_penalty: Subtracted once for a token of the answer; 0 is none.
        frequency_penalty: Subtracted for each time a token is in the answer; 0 is none.
        seed: Seeds the sampler; None is random.
        stop: Strings that end the answer.
        max_output_tokens: None is what is left of the context window.
        ignore_eos: Goes on past the end-of-text token.
        logit_bias: Added to logits, by token id; -100 forbids.
        logprobs: Whether to report log probabilities.
        top_logprobs: How many alternatives to report at each position.
        grammar: Restricts the answer, in GBNF; empty is none.
        begun: Tokens of the answer that the grammar takes as said, of one that is continued.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False
    top_logprobs: int = 0
    grammar: str = ""
    begun: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken as the logits stand, with nothing to add, subtract or forbid."""
        return self.temperature == 0 and not self.logit_bias and not self.penalized and not self.grammar

    @property
    def penalized(self) -> bool:
        """Whether tokens seen before are made less probable (or more)."""
        return self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def check(self, vocabulary_size: int) -> None:
        """Checks every field against its range in sampling.proto.

        Raises:
            InvalidField: Names the first field that is out of range.
        """
        _check_range("temperature", self.temperature, 0, 2)
        _check_range("top_p", self.top_p, 0, 1, above=True)
        _check_range("top_k", self.top_k, 0, 2**31 - 1)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repeat_penalty", self.repeat_penalty, 0, 10, above=True)
        _check_range("presence_penalty", self.presence_penalty, -2, 2)
        _check_range("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidField("sampling.max_output_tokens", f"{self.max_output_tokens} is not 1 or more.")
        self._check_stop()
        self._check_logit_bias(vocabulary_size)
        _check_range("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.top_logprobs and not self.logprobs:
            raise InvalidField("sampling.top_logprobs", "needs sampling.logprobs.")

    def _check_stop(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise InvalidField("sampling.stop", f"has {len(self.stop)} strings, at most {MAX_STOPS} are allowed.")
        for index, stop in enumerate(self.stop):
            size = len(stop.encode())
            if not 1 <= size <= MAX_STOP_BYTES:
                raise InvalidField(f"sampling.stop[{index}]", f"has {size} bytes, not 1 to {MAX_STOP_BYTES}.")

    def _check_logit_bias(self, vocabulary_size: int) -> None:
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidField("sampling.logit_bias", f"has {len(self.logit_bias)} entries, at most {MAX_BIASES}.")
        for token, bias in self.logit_bias.items():
            if not 0 <= token < vocabulary_size:
                raise InvalidField(
                    f"sampling.logit_bias[{token}]", f"no such token; the vocabulary has {vocabulary_size}."
                )
            _check_range(f"logit_bias[{token}]", bias, -100, 100)


def _check_range(name: str, value: float, low: float, high: float, above: bool = False) -> None:
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    bounds = f"above {low:g}, up to {high:g}" if above else f"{low:g} to {high:g}"
    raise InvalidField(f"sampling.{name}", f"{value:g} is out of range, which is {bounds}.")
