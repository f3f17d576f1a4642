"""The chain of checks that a prompt passes before the model and an answer passes before its reader.

A check is one class with an input side and, where it looks at answers, an output side. The chain runs them in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from redoma_chat.content_storage import ContentStorage
from redoma_chat.inference import Delta, Passages, Prompt, Usage


@dataclass(frozen=True, slots=True)
class BlockedPattern:
    """A literal text that must not pass, regardless of case: masked, or refused."""

    text: str
    masks: bool


@dataclass(frozen=True, slots=True)
class ContentChecks:
    """What a tenant has checked, and where it wants its texts to be kept. `max_input_tokens` of 0 is no limit."""

    max_input_tokens: int = 0
    blocked_patterns: tuple[BlockedPattern, ...] = ()
    storage: ContentStorage = ContentStorage.PUBLIC


@dataclass(frozen=True, slots=True)
class Passage:
    """What may go to the reader: text of the answer and of the reasoning."""

    text: str = ""
    reasoning: str = ""


class OutputFilter(Protocol):
    """Watches one answer as it streams."""

    @property
    def refused(self) -> bool:
        """Whether the answer must end after what was passed last."""
        ...

    def feed(self, passage: Passage) -> Passage:
        """Takes what is new and gives what may go on; text that may become a match is held back."""
        ...

    def flush(self) -> Passage:
        """Gives what is still held back, when the answer ended by itself."""
        ...


class Check(Protocol):
    """One member of the chain."""

    async def check_input(self, prompt: Prompt, timeout_s: float) -> Prompt:
        """Gives the prompt to use instead.

        Raises:
            InputRefused: The prompt must not be used.
        """
        ...

    async def check_passages(self, passages: Passages, timeout_s: float) -> Passages:
        """Gives what to embed instead.

        Raises:
            InputRefused: The passages must not be used.
        """
        ...

    def output_filter(self, already: Passage) -> OutputFilter | None:
        """Gives a filter for one answer, or None where the check does not look at answers.

        `already` is what the reader has: the answer that is being continued.
        """
        ...


class OutputChain:
    """The filters of one answer, one after the other."""

    def __init__(self, filters: Sequence[OutputFilter]) -> None:
        self._filters = filters
        self.refused = False

    def feed(self, delta: Delta) -> Delta:
        """Gives the delta with what may go to the reader; `refused` says whether the answer ends with it."""
        passage = self._pass(Passage(delta.text, delta.reasoning), 0)
        return replace(delta, text=passage.text, reasoning=passage.reasoning)

    def flush(self, usage: Usage) -> Delta | None:
        """Gives what the filters still hold, or None if that is nothing."""
        text, reasoning = "", ""
        for index, output_filter in enumerate(self._filters):
            passage = self._pass(output_filter.flush(), index + 1)
            text += passage.text
            reasoning += passage.reasoning
        return Delta(text, reasoning, usage) if text or reasoning else None

    def _pass(self, passage: Passage, first: int) -> Passage:
        for output_filter in self._filters[first:]:
            passage = output_filter.feed(passage)
            self.refused = self.refused or output_filter.refused
        return passage


class Chain:
    """The checks of one tenant."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks

    async def check_input(self, prompt: Prompt, timeout_s: float) -> Prompt:
        """Runs the input side of every check and gives the prompt to use.

        Raises:
            InputRefused: A check refused it.
        """
        for check in self._checks:
            prompt = await check.check_input(prompt, timeout_s)
        return prompt

    async def check_passages(self, passages: Passages, timeout_s: float) -> Passages:
        """Runs the input side of every check on what is to be embedded and gives what to use.

        Raises:
            InputRefused: A check refused it.
        """
        for check in self._checks:
            passages = await check.check_passages(passages, timeout_s)
        return passages

    def output_chain(self, already: Passage) -> OutputChain | None:
        """Gives the output side of the checks, or None if none of them looks at answers."""
        filters = [found for check in self._checks if (found := check.output_filter(already)) is not None]
        return OutputChain(filters) if filters else None
