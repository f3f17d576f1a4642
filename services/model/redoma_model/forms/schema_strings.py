"""The texts that a schema allows, as JSON strings: lengths, patterns and formats.

A character is written in one way only: as it is, or by its escape where JSON asks for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from redoma_model.forms.automaton import Automaton, Work, both, lengths, of_length
from redoma_model.forms.code_points import CodePoints, common, holds, joined, others
from redoma_model.forms.pattern_automaton import automaton_of
from redoma_model.forms.schema_error import Path, SchemaAllowsNothing, SchemaRefused
from redoma_model.forms.schema_formats import FORMATS
from redoma_model.forms.schema_pattern import PatternRefused, parse_pattern
from redoma_model.forms.schema_rules import Rules, either, repeat

_CONTROLS = joined([(0, 0x1F), (0x7F, 0x7F)])
_SHORT = {0x22: '"', 0x5C: "\\\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
_ESCAPED = joined((*_CONTROLS, *((one, one) for one in _SHORT)))
# A set that takes more characters to write is a rule of its own.
_LONG_SET = 24


@dataclass(frozen=True, slots=True)
class Form:
    """What a text must match, and where the schema says so."""

    pattern: str
    path: Path


@dataclass(frozen=True, slots=True)
class TextLimits:
    """What a text must be like.

    Attributes:
        least: Fewest characters.
        most: Most characters; None is without end.
        length_path: Of what limits the length.
        forms: The patterns and formats.
    """

    least: int
    most: int | None
    length_path: Path
    forms: tuple[Form, ...]


class Texts:
    """Translates the texts of one schema; the same limits are translated once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._work = Work()
        self._found: dict[str, Automaton] = {}
        self._written: dict[tuple[int, int | None, tuple[str, ...]], str] = {}

    def expression(self, limits: TextLimits) -> str:
        """Gives the expression of a JSON string within limits.

        Raises:
            SchemaRefused: A pattern can't be followed; SchemaAllowsNothing when no text is within all limits.
        """
        if not limits.forms:
            if (limits.least, limits.most) == (0, None):
                return "string"
            return self._rules.add(rf'"\"" char{repeat(limits.least, limits.most)} "\""')
        key = (limits.least, limits.most, tuple(sorted(form.pattern for form in limits.forms)))
        if key not in self._written:
            body = _Writer(self._rules, self._automaton(limits)).expression()
            self._written[key] = self._rules.add(rf'"\"" {body} "\""')
        return self._written[key]

    def allows(self, limits: TextLimits, text: str) -> bool:
        """Tells whether a text is surely within limits; raises SchemaRefused."""
        enough = limits.least <= len(text) and (limits.most is None or len(text) <= limits.most)
        return enough and all(self._form(form).accepts(text) for form in limits.forms)

    def _automaton(self, limits: TextLimits) -> Automaton:
        found = reduce(self._both, limits.forms[1:], self._form(limits.forms[0]))
        if not found.empty:
            found = self._of_length(found, limits)
        if found.empty:
            raise SchemaAllowsNothing(limits.forms[0].path, "allows nothing together with what is beside it")
        return found

    def _of_length(self, automaton: Automaton, limits: TextLimits) -> Automaton:
        least, most = lengths(automaton)
        if limits.least <= least and (limits.most is None or (most is not None and most <= limits.most)):
            return automaton
        try:
            return both(automaton, of_length(limits.least, limits.most), self._work)
        except PatternRefused as error:
            raise SchemaRefused(limits.length_path, f"{error} beside a pattern or a format") from error

    def _both(self, automaton: Automaton, form: Form) -> Automaton:
        try:
            return both(automaton, self._form(form), self._work)
        except PatternRefused as error:
            raise SchemaRefused(form.path, f"{error} beside another pattern or format") from error

    def _form(self, form: Form) -> Automaton:
        if form.pattern not in self._found:
            try:
                self._found[form.pattern] = automaton_of(parse_pattern(form.pattern), self._work)
            except PatternRefused as error:
                raise SchemaRefused(form.path, str(error)) from error
        return self._found[form.pattern]


def form_of(format_name: str, path: Path) -> Form | None:
    """Gives the form of a format; None when it is one that is not known."""
    return Form(FORMATS[format_name], path) if format_name in FORMATS else None


class _Writer:
    """Writes an automaton as rules, one for each state that is reached in more ways than one."""

    def __init__(self, rules: Rules, automaton: Automaton) -> None:
        self._rules = rules
        self._automaton = automaton
        entered = [0] * len(automaton.ends)
        for moves in automaton.moves:
            for _, target in moves:
                entered[target] += 1
        # A state is written where it is reached when there is but one way to it and one way on.
        self._inline = [
            count == 1 and len(moves) + end <= 1
            for count, moves, end in zip(entered, automaton.moves, automaton.ends, strict=True)
        ]
        self._inline[0] = False
        self._names = {state: rules.reserve() for state, inline in enumerate(self._inline) if not inline}

    def expression(self) -> str:
        """Gives what stands for the texts of the automaton, without quotes."""
        for state, name in self._names.items():
            self._rules.define(name, self._state(state))
        return self._names[0]

    def _state(self, state: int) -> str:
        found = [
            f"{written} {following}".rstrip()
            for characters, target in self._automaton.moves[state]
            for following in [self._following(target)]
            for written in self._written(characters)
        ]
        return " | ".join([*found, *(['""'] if self._automaton.ends[state] else [])])

    def _following(self, state: int) -> str:
        parts: list[str] = []
        while self._inline[state] and self._automaton.moves[state]:
            ((characters, target),) = self._automaton.moves[state]
            parts.append(either(self._written(characters)))
            state = target
        return " ".join([*parts, *([] if self._inline[state] else [self._names[state]])])

    def _written(self, characters: CodePoints) -> Sequence[str]:
        """Gives the alternatives by which a character of a set is written in a JSON string."""
        plain = common(characters, others(_ESCAPED))
        found = [self._set(plain)] if plain else []
        if short := "".join(letter for one, letter in _SHORT.items() if holds(characters, one)):
            found.append(f'"\\\\" [{short}]')
        if not found:
            codes = (one for first, last in characters for one in range(first, last + 1))
            found = [f'"\\\\u{one:04x}"' for one in codes]
        return found

    def _set(self, characters: CodePoints) -> str:
        whole = f"[{_ranges(characters)}]"
        rest = f"[^{_ranges(others(characters))}]"
        shorter = min(whole, rest, key=len)
        return shorter if len(shorter) <= _LONG_SET else self._rules.add(shorter)


def _ranges(characters: CodePoints) -> str:
    return "".join(_code(first) if first == last else f"{_code(first)}-{_code(last)}" for first, last in characters)


def _code(code_point: int) -> str:
    if code_point < 0x80:
        return chr(code_point) if chr(code_point).isalnum() else f"\\x{code_point:02X}"
    return f"\\u{code_point:04X}" if code_point <= 0xFFFF else f"\\U{code_point:08X}"
