"""Reads the regular expressions of JSON Schema, in what ECMAScript, Python and Rust mean alike.

Where they differ, a set holds what is in it for all of them: `\\d`, `\\w` and `\\s` are of ASCII, and so are their
negations but for `\\S`; a dot is no end of a line in any of the three. An unanchored pattern finds its text anywhere,
as the specification has it. What is no regular language, or is read differently, is refused.
"""

import re
from dataclasses import dataclass

from redoma_model.forms.code_points import ALL, CodePoints, common, joined, others

MAX_NESTING = 40
MAX_REPEATED = 2_000


class PatternRefused(Exception):
    """A pattern can't be followed; the message says why."""


@dataclass(frozen=True, slots=True)
class One:
    """One character of a set: of `sure` in every dialect, of `maybe` in some."""

    sure: CodePoints
    maybe: CodePoints


@dataclass(frozen=True, slots=True)
class Anchor:
    """The beginning of the text, or its end."""

    begin: bool


@dataclass(frozen=True, slots=True)
class Look:
    """What the text from here on must begin with, or must not."""

    inner: "Pattern"
    negative: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """One after another."""

    parts: tuple["Pattern", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    parts: tuple["Pattern", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same, `least` to `most` times; None is without end."""

    inner: "Pattern"
    least: int
    most: int | None


Pattern = One | Anchor | Look | Chain | Choice | Repeat

_BEYOND: CodePoints = ((0x80, 0x10FFFF),)
_DIGITS = joined([(0x30, 0x39)])
_WORD = joined([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE = joined([(0x09, 0x0D), (0x20, 0x20)])
# White space of any dialect.
_SPACES = joined([
    *_SPACE, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
])  # fmt: skip
_SETS = {"d": (_DIGITS, joined((*_DIGITS, *_BEYOND))), "w": (_WORD, joined((*_WORD, *_BEYOND))), "s": (_SPACE, _SPACES)}
_DOT = One(others(joined([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])), others(((0x0A, 0x0A),)))
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(,(\d*))?\}")
_GROUP = re.compile(r"\(\?(:|P?<([A-Za-z_][A-Za-z0-9_]*)>|=|!)")


def parse_pattern(text: str) -> Pattern:
    """Reads a regular expression.

    Raises:
        PatternRefused: It is none, or can't be followed.
    """
    return _Parser(text).parse()


class _Parser:
    """A parser by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._nesting = 0

    def parse(self) -> Pattern:
        found = self._choice()
        if self._at < len(self._text):
            raise PatternRefused("has a ) too many")
        return found

    def _choice(self) -> Pattern:
        parts = [self._chain()]
        while self._take("|"):
            parts.append(self._chain())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _chain(self) -> Pattern:
        parts: list[Pattern] = []
        while (character := self._peek()) and character not in "|)":
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _quantified(self, atom: Pattern) -> Pattern:
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None:
            return atom
        if isinstance(atom, Anchor | Look):
            raise PatternRefused("repeats what has no width")
        self._at = found.end()
        self._take("?")
        if self._peek() and self._peek() in "*+?{":
            raise PatternRefused("repeats a repetition without a group")
        least, most = _repetitions(found)
        if max(least, most or 0) > MAX_REPEATED or (most is not None and most < least):
            raise PatternRefused(f"has a repetition that is reversed or above {MAX_REPEATED}")
        return Repeat(atom, least, most)

    def _atom(self) -> Pattern:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._set()
        if character == ".":
            return _DOT
        if character in "^$":
            return Anchor(character == "^")
        if character == "\\":
            return self._escape(in_set=False)
        if character in "*+?{":
            raise PatternRefused(f"has a {character} with nothing to repeat, or that is read differently elsewhere")
        return _character(ord(character))

    def _group(self) -> Pattern:
        look = ""
        if self._peek() == "?":
            found = _GROUP.match(self._text, self._at - 1)
            if found is None:
                raise PatternRefused("has a lookbehind, flags or another group that can't be followed")
            self._at = found.end()
            look = found[1] if found[1] in "=!" else ""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise PatternRefused("is nested too deep")
        inner = self._choice()
        self._nesting -= 1
        if not self._take(")"):
            raise PatternRefused("has a ( without its )")
        return Look(inner, look == "!") if look else inner

    def _set(self) -> One:
        negated = self._take("^")
        if self._peek() == "]":
            raise PatternRefused("has an empty set of characters")
        found: list[One] = []
        while not self._take("]"):
            if self._text[self._at : self._at + 2] in ("[:", "[=", "[.", "&&", "--", "||", "~~"):
                raise PatternRefused("has a set of characters that is read differently elsewhere")
            first = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                found.append(_between(first, self._member()))
            else:
                found.append(first)
        sure = joined(each for one in found for each in one.sure)
        maybe = joined(each for one in found for each in one.maybe)
        return One(others(maybe), others(sure)) if negated else One(sure, maybe)

    def _member(self) -> One:
        character = self._next()
        return self._escape(in_set=True) if character == "\\" else _character(ord(character))

    def _escape(self, in_set: bool) -> One:
        letter = self._next()
        if letter.lower() in _SETS:
            sure, maybe = _SETS[letter.lower()]
            return One(sure, maybe) if letter.islower() else One(others(maybe), others(sure))
        if letter in _CONTROLS:
            return _character(_CONTROLS[letter])
        if letter == "b" and in_set:
            return _character(0x08)
        if letter == "0" and not self._peek().isdecimal():
            return _character(0)
        if letter in "xu":
            return _character(self._hexadecimal(2 if letter == "x" else 4))
        if letter.isascii() and letter.isalnum():
            raise PatternRefused(f"has \\{letter}, which can't be followed")
        return _character(ord(letter))

    def _hexadecimal(self, count: int) -> int:
        digits = self._text[self._at : self._at + count]
        if not re.fullmatch(rf"[0-9a-fA-F]{{{count}}}", digits):
            raise PatternRefused(f"has an escape that needs {count} hexadecimal digits")
        self._at += count
        return int(digits, 16)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        if not (character := self._peek()):
            raise PatternRefused("ends in the middle")
        self._at += 1
        return character

    def _take(self, character: str) -> bool:
        found = self._peek() == character
        self._at += found
        return found


def _repetitions(found: "re.Match[str]") -> tuple[int, int | None]:
    if found[1] is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0]]
    if max(len(found[1]), len(found[3] or "")) > 6:
        return MAX_REPEATED + 1, None
    least = int(found[1])
    return least, least if found[2] is None else int(found[3]) if found[3] else None


def _character(code_point: int) -> One:
    found = common(((code_point, code_point),), ALL)
    if not found:
        raise PatternRefused("has half of a surrogate pair")
    return One(found, found)


def _between(first: One, last: One) -> One:
    ends = [one.sure[0] for one in (first, last) if len(one.sure) == 1 and one.sure[0][0] == one.sure[0][1]]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise PatternRefused("has a range of characters that is none")
    found = common(((ends[0][0], ends[1][1]),), ALL)
    return One(found, found)
