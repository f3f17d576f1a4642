"""How the next token is picked: what a caller may say of it, within which limits, and whose word goes first."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from redoma_chat.response_format import ResponseFormat, check_response_format
from redoma_kit.errors import InvalidField

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_BIASES = 1_024
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """Wishes of a caller; None (or empty) takes the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False
    top_logprobs: int = 0
    response_format: ResponseFormat | None = None

    def overridden_by(self, other: "Sampling") -> "Sampling":
        """Gives these wishes with every one that `other` expresses in place of its own."""
        said = {
            item.name: value
            for item in fields(other)
            if (value := getattr(other, item.name)) is not None and (value is not False and value not in ((), {}))
        }
        if not other.logprobs:
            said.pop("top_logprobs", None)
        return replace(self, **said)


@dataclass(frozen=True, slots=True)
class _Range:
    least: float
    most: float
    least_included: bool = True

    def holds(self, value: float) -> bool:
        above = value >= self.least if self.least_included else value > self.least
        return math.isfinite(value) and above and value <= self.most

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"must be {self.least:g} or more"
        return f"must be {'from' if self.least_included else 'above'} {self.least:g} up to {self.most:.10g}"


_RANGES: Mapping[str, _Range] = {
    "temperature": _Range(0, 2),
    "top_p": _Range(0, 1, least_included=False),
    "top_k": _Range(0, 2**31 - 1),
    "min_p": _Range(0, 1),
    "repeat_penalty": _Range(0, 10, least_included=False),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "seed": _Range(0, 2**32 - 1),
    "max_output_tokens": _Range(1, 2**31 - 1),
    "top_logprobs": _Range(0, MAX_TOP_LOGPROBS),
}


def check_sampling(sampling: Sampling, wire_name: Callable[[str], str]) -> None:
    """Checks every wish against its limits; `wire_name` says what the caller calls a field.

    Raises:
        InvalidField: One is out of range.
    """
    for name, allowed in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not allowed.holds(value):
            raise InvalidField(wire_name(name), str(allowed))
    if len(sampling.stop) > MAX_STOPS:
        raise InvalidField(wire_name("stop"), f"at most {MAX_STOPS} strings")
    if any(not 1 <= len(text.encode()) <= MAX_STOP_BYTES for text in sampling.stop):
        raise InvalidField(wire_name("stop"), f"each must have 1 to {MAX_STOP_BYTES} bytes")
    if len(sampling.logit_bias) > MAX_BIASES:
        raise InvalidField(wire_name("logit_bias"), f"at most {MAX_BIASES} entries")
    if not all(-100 <= bias <= 100 and 0 <= token < 2**31 for token, bias in sampling.logit_bias.items()):
        raise InvalidField(wire_name("logit_bias"), "token ids are 0 or more, biases from -100 up to 100")
    if sampling.top_logprobs and not sampling.logprobs:
        raise InvalidField(wire_name("top_logprobs"), "needs logprobs to be true")
    if sampling.response_format is not None:
        check_response_format(sampling.response_format, wire_name)
        if sampling.ignore_eos:
            raise InvalidField(wire_name("ignore_eos"), "not together with a form that the answer must have")
