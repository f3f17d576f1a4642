"""Texts of a grammar's language, and whether a text is one, without llama.cpp."""

import random

from redoma_model.forms.grammar import ROOT, Alternative, Characters, Grammar, parse_grammar

# What negated and wide sets are drawn from.
POOL = [*map(ord, " !\"#$%&'()*+,-./0123456789:;<=>?@AZ[\\]^_`az{|}~"), 0x7F, 0xE9, 0xB2, 0x660, 0xFF, 0x2028, 0x1F600]
_ENDLESS = 10**9


class Sampler:
    """Draws random texts of a grammar, which end soon after `length` characters.

    Raises:
        AssertionError: A rule that the grammar reaches allows no text at all.
    """

    def __init__(self, grammar: str) -> None:
        self._grammar = parse_grammar(grammar)
        self._shortest = _shortest(self._grammar)
        for number in _reached(self._grammar):
            assert self._shortest[number] < _ENDLESS, "A rule allows no text."

    def text(self, chance: random.Random, length: int = 60) -> str:
        """Gives one text."""
        found: list[str] = []
        waiting: list[int | Characters] = [self._grammar.numbers[ROOT]]
        while waiting:
            element = waiting.pop()
            if isinstance(element, Characters):
                found.append(chr(_drawn(element, chance)))
                continue
            alternatives = [one for one in self._grammar.rules[element] if self._cost(one) < _ENDLESS]
            if len(found) > length:
                waiting += reversed(self._cheapest(alternatives))
            else:
                waiting += reversed(chance.choice(alternatives))
        return "".join(found)

    def _cheapest(self, alternatives: list[Alternative]) -> Alternative:
        return min(alternatives, key=lambda one: self._cost(one))

    def _cost(self, alternative: Alternative) -> int:
        return _cost(alternative, self._shortest)


def follows(grammar: str, text: str) -> bool:
    """Tells whether a text is of a grammar's language, by trying every reading of it."""
    rules = parse_grammar(grammar)
    # What is still to be read, first element first.
    readings: set[tuple[object, ...]] = {(rules.numbers[ROOT],)}
    for character in [*text, None]:
        after: set[tuple[object, ...]] = set()
        waiting, seen = list(readings), set(readings)
        while waiting:
            reading = waiting.pop()
            if not reading:
                if character is None:
                    return True
            elif isinstance(reading[0], Characters):
                if character is not None and reading[0].holds(ord(character)):
                    after.add(reading[1:])
            else:
                assert isinstance(reading[0], int)
                begun = {(*alternative, *reading[1:]) for alternative in rules.rules[reading[0]]} - seen
                seen |= begun
                waiting += begun
        readings = after
    return False


def _cost(alternative: Alternative, shortest: list[int]) -> int:
    return sum(shortest[one] if isinstance(one, int) else 1 for one in alternative)


def _shortest(grammar: Grammar) -> list[int]:
    """Gives the length of each rule's shortest text, by repeating until nothing changes."""
    found = [_ENDLESS] * len(grammar.rules)
    changed = True
    while changed:
        costs = [min((_cost(each, found) for each in one), default=_ENDLESS) for one in grammar.rules]
        costs = [min(one, _ENDLESS) for one in costs]
        changed, found = costs != found, costs
    return found


def _reached(grammar: Grammar) -> set[int]:
    found = {grammar.numbers[ROOT]}
    waiting = list(found)
    while waiting:
        for alternative in grammar.rules[waiting.pop()]:
            new = {one for one in alternative if isinstance(one, int)} - found
            found |= new
            waiting += new
    return found


def _drawn(characters: Characters, chance: random.Random) -> int:
    candidates = [one for one in POOL if characters.holds(one)]
    if not characters.negated and (not candidates or chance.random() < 0.5):
        first, last = chance.choice(characters.ranges)
        return chance.choice((first, last, chance.randint(first, last)))
    return chance.choice(candidates)
