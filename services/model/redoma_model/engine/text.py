"""From sampled tokens to text: whole UTF-8 characters, stop strings and `<think>` sections that span tokens."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to the answer and to the reasoning; either may be empty."""

    text: str = ""
    reasoning: str = ""


def held_back(text: str, markers: Sequence[str]) -> int:
    """Counts the characters at the end of `text` that may be the beginning of one of `markers`."""
    longest = 0
    for marker in markers:
        for size in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:size]):
                longest = size
                break
    return longest


class TextAssembler:
    """Assembles one answer.

    Characters that may be the beginning of a stop string or of a think tag are held back until the next tokens tell, so
    what was given out is never taken back. Stop strings count in the answer only, not in the reasoning. The white space
    around a think section belongs to neither.
    """

    __slots__ = ("_decoder", "_lead", "_pending", "_reasoning", "_stops", "_trim", "stopped")

    def __init__(self, stops: Sequence[str], may_open: bool, in_reasoning: bool) -> None:
        """Begins an answer.

        Args:
            stops: Strings that end the answer.
            may_open: Whether the answer may begin with a think section.
            in_reasoning: Whether the prompt ended inside a think section.
        """
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._pending = ""
        self._reasoning = in_reasoning
        # The answer has not begun: a think section may open here, and white space is held.
        self._lead = may_open and not in_reasoning
        # A think section has just closed: white space is dropped.
        self._trim = False
        self.stopped = False

    @property
    def in_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._reasoning

    def feed(self, token: bytes) -> Piece:
        """Adds a token's bytes and gives what became certain."""
        decoded = self._decoder.decode(token)
        if not self._pending and not self._reasoning and not self._lead and not self._trim and not self._stops:
            return Piece(text=decoded)
        self._pending += decoded
        return self._drain(final=False)

    def finish(self) -> Piece:
        """Ends the answer and gives what was held back; a character that never became whole is dropped."""
        if self.stopped:
            return Piece()
        return self._drain(final=True)

    def _drain(self, final: bool) -> Piece:
        reasoning = ""
        if self._lead:
            self._open(final)
        if self._reasoning:
            reasoning = self._take_reasoning(final)
        if self._reasoning or self._lead:
            return Piece(reasoning=reasoning)
        return Piece(self._take_text(final), reasoning)

    def _open(self, final: bool) -> None:
        """Decides whether the answer begins with a think section, once enough of it is there."""
        begun = self._pending.lstrip()
        if begun.startswith(THINK_OPEN):
            self._pending = begun[len(THINK_OPEN) :]
            self._reasoning, self._lead = True, False
        elif final or not THINK_OPEN.startswith(begun):
            self._lead = False

    def _take_reasoning(self, final: bool) -> str:
        before, close, after = self._pending.partition(THINK_CLOSE)
        if close:
            self._reasoning, self._trim, self._pending = False, True, after
            return before
        keep = 0 if final else held_back(before, (THINK_CLOSE,))
        self._pending = before[len(before) - keep :]
        return before[: len(before) - keep]

    def _take_text(self, final: bool) -> str:
        if self._trim:
            self._pending = self._pending.lstrip()
            self._trim = not self._pending
        pending = self._pending
        found = [index for index in (pending.find(stop) for stop in self._stops) if index >= 0]
        if found:
            self._pending, self.stopped = "", True
            return pending[: min(found)]
        keep = 0 if final else held_back(pending, self._stops)
        self._pending = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]
