"""The check that keeps literal texts out of prompts and answers, also where an answer brings one in pieces."""

from collections.abc import Sequence
from dataclasses import replace

from redoma_chat.checks.chain import BlockedPattern, OutputFilter, Passage
from redoma_chat.errors import InputRefused
from redoma_chat.inference import Passages, Prompt

NAME = "blocked_patterns"
MASK = "[masked]"


def fold(text: str) -> str:
    """Takes the case out of a text and keeps its length, so that positions in both are the same."""
    folded = text.casefold()
    return folded if len(folded) == len(text) else "".join(_fold_character(character) for character in text)


def _fold_character(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


class BlockedPatterns:
    """Refuses or masks texts. Refusal goes before masking."""

    def __init__(self, patterns: Sequence[BlockedPattern]) -> None:
        self._refused = tuple(fold(pattern.text) for pattern in patterns if not pattern.masks)
        self._masked = tuple(fold(pattern.text) for pattern in patterns if pattern.masks)

    async def check_input(self, prompt: Prompt, timeout_s: float) -> Prompt:
        """Looks through every turn, and masks what is to be masked.

        Raises:
            InputRefused: A turn holds a refused text.
        """
        for turn in prompt.turns:
            self._refuse(turn.content)
        if not self._masked:
            return prompt
        return replace(prompt, turns=tuple(replace(turn, content=self._mask(turn.content)) for turn in prompt.turns))

    async def check_passages(self, passages: Passages, timeout_s: float) -> Passages:
        """Looks through every text. Tokens are not texts: only the model could read them, so they are refused.

        Raises:
            InputRefused: A passage holds a refused text, or is given by its tokens.
        """
        return replace(passages, items=tuple(self._checked(item) for item in passages.items))

    def _checked(self, item: str | tuple[int, ...]) -> str:
        if not isinstance(item, str):
            raise InputRefused(NAME, "Send texts, not tokens: your tenant has inputs checked for patterns.")
        self._refuse(item)
        return self._mask(item) if self._masked else item

    def _refuse(self, text: str) -> None:
        folded = fold(text)
        if any(pattern in folded for pattern in self._refused):
            raise InputRefused(NAME, "The input holds a text that your tenant does not allow.")

    def _mask(self, text: str) -> str:
        stream = MaskStream(self._masked, "")
        return stream.feed(text) + stream.flush()

    def output_filter(self, already: Passage) -> OutputFilter | None:
        """Gives a filter for one answer."""
        return _PatternFilter(self._refused, self._masked, already)


class _Window:
    """Text that can't be let go yet, behind some that was: together they may hold a match.

    `passed` characters at the head of `text` have gone out before. They stay as long as a match could begin in them.
    """

    __slots__ = ("_first", "_longest", "_patterns", "folded", "passed", "text")

    def __init__(self, patterns: Sequence[str], already: str) -> None:
        self._patterns = patterns
        self._longest = max(map(len, patterns), default=0)
        self._first = {pattern[0] for pattern in patterns}
        self.text = already[-self._longest :] if self._longest else ""
        self.folded = fold(self.text)
        self.passed = len(self.text)

    def add(self, text: str) -> None:
        """Appends what is new."""
        self.text += text
        self.folded += fold(text)

    def match(self) -> tuple[int, int] | None:
        """Gives begin and end of the earliest match that has not wholly gone out; of several, the longest."""
        best: tuple[int, int] | None = None
        for pattern in self._patterns:
            begin = self.folded.find(pattern, max(0, self.passed - len(pattern) + 1))
            if begin >= 0 and (best is None or (begin, -len(pattern)) < (best[0], best[0] - best[1])):
                best = (begin, begin + len(pattern))
        return best

    def pending(self) -> int:
        """Gives where the earliest text begins that more text could make a match; the length if there is none."""
        size = len(self.folded)
        for begin in range(max(0, size - self._longest + 1), size):
            if self.folded[begin] in self._first:
                tail = self.folded[begin:]
                if any(len(pattern) > len(tail) and pattern.startswith(tail) for pattern in self._patterns):
                    return begin
        return size

    def take(self, end: int) -> str:
        """Gives what has not gone out up to `end`."""
        out = self.text[self.passed : end]
        self.passed = max(self.passed, end)
        return out

    def forget(self, end: int) -> None:
        """Drops everything up to `end`."""
        self.text = self.text[end:]
        self.folded = self.folded[end:]
        self.passed = max(0, self.passed - end)

    def trim(self) -> None:
        """Drops what no match can begin in any more."""
        self.forget(max(0, self.passed - self._longest))


class RefuseStream:
    """Lets text through up to the first match and says when that came."""

    __slots__ = ("_window", "refused")

    def __init__(self, patterns: Sequence[str], already: str) -> None:
        self._window = _Window(patterns, already)
        self.refused = False

    def feed(self, text: str) -> str:
        """Gives what may go on."""
        if self.refused or not text:
            return ""
        self._window.add(text)
        match = self._window.match()
        if match is not None:
            self.refused = True
            return self._window.take(match[0])
        out = self._window.take(self._window.pending())
        self._window.trim()
        return out

    def flush(self) -> str:
        """Gives what was held back."""
        return "" if self.refused else self._window.take(len(self._window.text))


class MaskStream:
    """Lets text through with every match replaced."""

    __slots__ = ("_window",)

    def __init__(self, patterns: Sequence[str], already: str) -> None:
        self._window = _Window(patterns, already)

    def feed(self, text: str) -> str:
        """Gives what may go on."""
        if not text:
            return ""
        self._window.add(text)
        return self._release(final=False)

    def flush(self) -> str:
        """Gives what was held back."""
        return self._release(final=True)

    def _release(self, final: bool) -> str:
        out: list[str] = []
        window = self._window
        limit = len(window.text) if final else window.pending()
        # A match that begins where a longer one may still come has to wait for it.
        while (match := window.match()) is not None and match[0] < limit:
            out += (window.take(match[0]), MASK)
            window.forget(match[1])
            limit -= match[1]
        out.append(window.take(max(limit, 0)))
        window.trim()
        return "".join(out)


class _Channel:
    """One of the two texts of an answer."""

    __slots__ = ("_mask", "_refuse")

    def __init__(self, refused: Sequence[str], masked: Sequence[str], already: str) -> None:
        self._refuse = RefuseStream(refused, already)
        self._mask = MaskStream(masked, already)

    @property
    def refused(self) -> bool:
        return self._refuse.refused

    def feed(self, text: str) -> str:
        out = self._mask.feed(self._refuse.feed(text))
        return out + self._mask.flush() if self.refused else out

    def flush(self) -> str:
        return self._mask.feed(self._refuse.flush()) + self._mask.flush()


class _PatternFilter:
    """The filter of one answer: reasoning and text are watched apart."""

    __slots__ = ("_reasoning", "_text")

    def __init__(self, refused: Sequence[str], masked: Sequence[str], already: Passage) -> None:
        self._text = _Channel(refused, masked, already.text)
        self._reasoning = _Channel(refused, masked, already.reasoning)

    @property
    def refused(self) -> bool:
        """Whether a refused text came."""
        return self._text.refused or self._reasoning.refused

    def feed(self, passage: Passage) -> Passage:
        """Gives what may go on. Reasoning is over when text comes, so what is held of it goes first."""
        reasoning = self._reasoning.feed(passage.reasoning)
        if self._reasoning.refused:
            return Passage("", reasoning)
        if passage.text:
            reasoning += self._reasoning.flush()
        return Passage(self._text.feed(passage.text), reasoning)

    def flush(self) -> Passage:
        """Gives what was held back."""
        return Passage(self._text.flush(), self._reasoning.flush())
