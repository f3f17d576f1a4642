"""A check of GBNF grammars before llama.cpp reads them: one that it does not survive would end all tenants' requests.

llama.cpp's parser takes a reversed repetition for an endless one, its search for left recursion takes exponential time
and misses rules that are empty only through others, and the stacks by which it follows a text may double with each
character. The grammar is parsed here as llama.cpp does it, into the same rules, so that what it costs is known first.
"""

import re
from dataclasses import dataclass, field

from redoma_model.engine.backend import GrammarError

MAX_BYTES = 64 << 10
MAX_RULES = 8_192
MAX_ELEMENTS = 65_536
MAX_NESTING = 64
MAX_REPETITIONS = 2_000
ROOT = "root"
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REPEAT = re.compile(r"\{[ \t]*([0-9]+)[ \t]*(?:(,)[ \t]*([0-9]+)?[ \t]*)?\}")
MAX_CODE_POINT = 0x10FFFF
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


@dataclass(frozen=True, slots=True)
class Characters:
    """A set of characters.

    Attributes:
        ranges: First and last code point of each range.
        negated: Whether it is all the others.
    """

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def holds(self, code_point: int) -> bool:
        """Tells whether a character is in the set."""
        return any(first <= code_point <= last for first, last in self.ranges) != self.negated


ANY = Characters((), negated=True)
# The number of another rule, or characters.
Element = int | Characters
Alternative = tuple[Element, ...]


@dataclass(slots=True)
class Grammar:
    """A grammar as rules of alternatives.

    Attributes:
        rules: The alternatives of each rule; none where a rule is named and not defined.
        numbers: Of the rules that have a name.
    """

    rules: list[list[Alternative]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """Gives the number of a rule by its name."""
        if name not in self.numbers:
            self.numbers[name] = self.new_rule()
        return self.numbers[name]

    def new_rule(self) -> int:
        """Makes a rule without a name.

        Raises:
            GrammarError: There are too many.
        """
        if len(self.rules) >= MAX_RULES:
            raise GrammarError(f"The grammar has more than {MAX_RULES} rules, with those of groups and repetitions.")
        self.rules.append([])
        return len(self.rules) - 1


def parse_grammar(text: str) -> Grammar:
    """Parses a grammar; every rule it names is defined, `root` among them.

    Raises:
        GrammarError: It is no grammar, or too large.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise GrammarError("The grammar is not Unicode text.") from error
    if size > MAX_BYTES:
        raise GrammarError(f"The grammar has {size} bytes, more than {MAX_BYTES}.")
    if "\0" in text:
        raise GrammarError("The grammar holds a NUL character.")
    grammar = _Parser(text).parse()
    if ROOT not in grammar.numbers:
        raise GrammarError(f"The grammar has no rule named {ROOT}.")
    for name, number in grammar.numbers.items():
        if not grammar.rules[number]:
            raise GrammarError(f"The grammar names the rule {name:.100} and does not define it.")
    return grammar


class _Parser:
    """A parser by recursive descent; a group within a group is one more level."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._nesting = 0
        self._elements = 0
        self._grammar = Grammar()

    def parse(self) -> Grammar:
        self._skip(True)
        while self._at < len(self._text):
            name = self._take(_NAME, "the name of a rule")
            self._skip(False)
            if not self._text.startswith("::=", self._at):
                raise self._error("::= is missing")
            self._at += 3
            self._skip(True)
            number = self._grammar.number(name[0])
            self._grammar.rules[number] = self._alternatives(nested=False)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("the rule should end")
            self._skip(True)
        return self._grammar

    def _alternatives(self, nested: bool) -> list[Alternative]:
        found = [self._sequence(nested)]
        while self._peek() == "|":
            self._at += 1
            self._skip(True)
            found.append(self._sequence(nested))
        return found

    def _sequence(self, nested: bool) -> Alternative:
        elements: list[Element] = []
        # Where the last symbol begins, which is what a repetition repeats.
        symbol = 0
        while (character := self._peek()) and character not in "|)\r\n":
            if character in "*+?{":
                elements[symbol:] = self._repeated(elements[symbol:])
            else:
                symbol = len(elements)
                elements += self._symbol()
            self._count(len(elements) - symbol)
            self._skip(nested)
        return tuple(elements)

    def _symbol(self) -> list[Element]:
        character = self._peek()
        if character == '"':
            return self._literal()
        if character == "[":
            return self._characters()
        if character == "(":
            return [self._group()]
        if character == ".":
            self._at += 1
            return [ANY]
        if character in "<!":
            raise self._error("tokens in place of text can't be used")
        return [self._grammar.number(self._take(_NAME, "a symbol")[0])]

    def _literal(self) -> list[Element]:
        self._at += 1
        elements: list[Element] = []
        while self._peek() != '"':
            code_point = self._character()
            if code_point == 0:
                raise self._error("\\x00 is no character of a text")
            elements.append(Characters(((code_point, code_point),)))
        self._at += 1
        return elements

    def _characters(self) -> list[Element]:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if last < first:
                raise self._error("a range of characters ends before it begins")
            ranges.append((first, last))
            self._count(1)
        self._at += 1
        characters = Characters(tuple(ranges), negated)
        if negated and any(first <= 0 and last >= MAX_CODE_POINT for first, last in ranges):
            raise self._error("a set leaves no character")
        return [characters] if ranges else []

    def _character(self) -> int:
        character = self._peek()
        if not character:
            raise self._error("a text or a set of characters does not end")
        self._at += 1
        if character != "\\":
            return ord(character)
        escape = self._peek()
        self._at += 1
        if escape in _HEX:
            digits = self._text[self._at : self._at + _HEX[escape]]
            if not re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[escape]}}}", digits):
                raise self._error(f"\\{escape} needs {_HEX[escape]} hexadecimal digits")
            code_point = int(digits, 16)
            if code_point > MAX_CODE_POINT or 0xD800 <= code_point <= 0xDFFF:
                raise self._error(f"\\{escape}{digits} is no character of a text")
            self._at += len(digits)
            return code_point
        if escape not in _ESCAPES or not escape:
            raise self._error(f"\\{escape} is no escape")
        return ord(_ESCAPES[escape])

    def _group(self) -> int:
        if self._nesting >= MAX_NESTING:
            raise self._error(f"groups are nested more than {MAX_NESTING} deep")
        self._nesting += 1
        self._at += 1
        self._skip(True)
        number = self._grammar.new_rule()
        self._grammar.rules[number] = self._alternatives(nested=True)
        if self._peek() != ")":
            raise self._error("a ) is missing")
        self._at += 1
        self._nesting -= 1
        return number

    def _repeated(self, symbol: list[Element]) -> list[Element]:
        if not symbol:
            raise self._error("there is nothing to repeat")
        least, most = self._repetitions()
        self._count(len(symbol) * max(least, 1 if most is None else most))
        if most is None:
            again = self._grammar.new_rule()
            self._grammar.rules[again] = [(*symbol, again), ()]
            return [*symbol * least, again]
        rest: list[Element] = []
        for _ in range(most - least):
            again = self._grammar.new_rule()
            self._grammar.rules[again] = [(*symbol, *rest), ()]
            rest = [again]
        return [*symbol * least, *rest]

    def _repetitions(self) -> tuple[int, int | None]:
        character = self._peek()
        if character != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        found = self._take(_REPEAT, "{m}, {m,} or {m,n}")
        if max(len(found[1]), len(found[3] or "")) > 9:
            raise self._error(f"a repetition is above {MAX_REPETITIONS}")
        least = int(found[1])
        most = int(found[3]) if found[3] else None if found[2] else least
        if max(least, most or 0) > MAX_REPETITIONS:
            raise self._error(f"a repetition is above {MAX_REPETITIONS}")
        if most is not None and most < least:
            raise self._error("a repetition ends below where it begins")
        return least, most

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise GrammarError(f"The grammar has more than {MAX_ELEMENTS} elements, repeated ones counted each time.")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, pattern: "re.Pattern[str]", what: str) -> "re.Match[str]":
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(f"{what} is missing")
        self._at = found.end()
        return found

    def _error(self, problem: str) -> GrammarError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - (self._text.rfind("\n", 0, self._at) + 1) + 1
        return GrammarError(f"The grammar can't be read at line {line}, character {column}: {problem}.")
