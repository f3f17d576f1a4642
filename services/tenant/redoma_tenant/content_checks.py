"""What a tenant has checked of its prompts and answers."""

from dataclasses import dataclass
from enum import Enum

from redoma_kit.errors import InvalidField

MAX_PATTERNS = 64
MAX_PATTERN_CHARACTERS = 256


class BlockedAction(Enum):
    """What happens on a match of a blocked pattern."""

    REFUSE = "REFUSE"
    MASK = "MASK"


@dataclass(frozen=True, slots=True)
class BlockedPattern:
    """A literal text that must not pass, matched regardless of case."""

    text: str
    action: BlockedAction


@dataclass(frozen=True, slots=True)
class ContentChecks:
    """What is checked of a tenant's prompts and answers. `max_input_tokens` 0 is no limit."""

    max_input_tokens: int = 0
    blocked_patterns: tuple[BlockedPattern, ...] = ()

    def check(self, field: str) -> None:
        """Raises InvalidField if a value is out of range; `field` is where the request holds the checks."""
        if self.max_input_tokens < 0:
            raise InvalidField(f"{field}.max_input_tokens", "must not be negative; 0 is no limit.")
        if len(self.blocked_patterns) > MAX_PATTERNS:
            raise InvalidField(
                f"{field}.blocked_patterns", f"has {len(self.blocked_patterns)} patterns; the most is {MAX_PATTERNS}."
            )
        for index, pattern in enumerate(self.blocked_patterns):
            where = f"{field}.blocked_patterns[{index}].text"
            if not 1 <= len(pattern.text) <= MAX_PATTERN_CHARACTERS:
                raise InvalidField(where, f"must have 1 to {MAX_PATTERN_CHARACTERS} characters.")
            if "\0" in pattern.text:
                raise InvalidField(where, "must not hold the character NUL.")
