"""What following a grammar costs llama.cpp, and a refusal of what costs too much.

llama.cpp follows a text by stacks: each holds where in the rules one reading of the text so far stands. There must be
few of them, as each is tried against the whole vocabulary, and their number must not grow with the text. Whether it
does can't be decided for all grammars; texts that make it grow are sought instead, from each rule that contains itself.
"""

import random
from collections.abc import Iterable, Iterator

from redoma_model.engine.backend import GrammarError
from redoma_model.forms.grammar import ROOT, Characters, Grammar, parse_grammar

# Most readings of a text at once.
MAX_STACKS = 256
# Most ways to read on within one token. llama.cpp follows each way apart, even where two come to the same, and does
# so for every token of the vocabulary that fits so far: their number is what a token costs.
MAX_WAYS = 1_024
# Characters of a token; the few that are longer cost more, and are few.
TOKEN_CHARACTERS = 8
# Stacks to compute when looking for a text with too many readings: some 100 ms of work.
PROBES = 40_000
LEAST_PROBES = 400
PROBE_CHARACTERS = 64
# How many texts are followed at once: first the most promising one alone, as far as it goes.
_BEAMS = (1, 4)
_PROMISING = 4
# Rules of a group that contain each other reach all of it.
_STARTS = 2
_ORDINARY = tuple(map(ord, ' a0"'))

# Where a reading stands: a rule's number, the alternative's, the element's, and what follows when the rule ends.
_Stack = tuple[int, int, int, "_Stack"] | None
_Stacks = frozenset[_Stack]


def check_grammar_cost(text: str) -> None:
    """Checks that llama.cpp can follow a grammar at a bearable cost.

    Raises:
        GrammarError: It is no grammar, or costs too much.
    """
    grammar = parse_grammar(text)
    _check_left(grammar, _may_be_empty(grammar))
    _Probe(grammar).run()


def _may_be_empty(grammar: Grammar) -> set[int]:
    """Finds the rules that allow the empty text, be it through others."""
    empty: set[int] = set()
    users: dict[int, set[int]] = {}
    for number, alternatives in enumerate(grammar.rules):
        for alternative in alternatives:
            for element in alternative:
                if isinstance(element, int):
                    users.setdefault(element, set()).add(number)
    waiting = list(range(len(grammar.rules)))
    while waiting:
        number = waiting.pop()
        if number not in empty and any(empty.issuperset(one) for one in grammar.rules[number]):
            empty.add(number)
            waiting += users.get(number, ())
    return empty


def _leftmost(grammar: Grammar, empty: set[int], number: int) -> Iterator[int]:
    """Gives the rules that a text of this rule may begin with, once for each place."""
    for alternative in grammar.rules[number]:
        for element in alternative:
            if not isinstance(element, int):
                break
            yield element
            if element not in empty:
                break


def _check_left(grammar: Grammar, empty: set[int]) -> None:
    """Refuses a rule that begins with itself, and one that begins in too many ways."""
    ways: dict[int, int] = {}
    open_rules: set[int] = set()
    for first in range(len(grammar.rules)):
        path = [(first, _leftmost(grammar, empty, first))] if first not in ways else []
        open_rules.update(number for number, _ in path)
        while path:
            number, rest = path[-1]
            following = next(rest, None)
            if following is None:
                path.pop()
                open_rules.discard(number)
                ways[number] = len(grammar.rules[number]) + sum(ways[one] for one in _leftmost(grammar, empty, number))
                if ways[number] > MAX_STACKS * 8:
                    raise _too_ambiguous()
            elif following in open_rules:
                raise GrammarError(f"{_described(grammar, following)} begins with itself.")
            elif following not in ways:
                open_rules.add(following)
                path.append((following, _leftmost(grammar, empty, following)))


class _Probe:
    """Follows texts that have many readings, always the most promising ones."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._random = random.Random(0)  # noqa: S311
        self._left = 0
        # Stacks that may still be computed to count ways.
        self._ways_left = PROBES

    def run(self) -> None:
        starts = [self._grammar.numbers[ROOT], *_nested_in_themselves(self._grammar)]
        for width in _BEAMS:
            for start in starts:
                self._left = max(LEAST_PROBES, PROBES // len(starts) // len(_BEAMS))
                self._walk(self._closed(self._entered(start, None)), width)

    def _walk(self, first: _Stacks, width: int) -> None:
        beam = [first]
        for _ in range(PROBE_CHARACTERS):
            for stacks in beam:
                left, self._left = self._left, self._ways_left
                self._check_ways(stacks)
                self._left, self._ways_left = left, self._left
            reached: set[_Stacks] = set()
            for stacks in beam:
                reached.update(self._after(stacks, code_point) for code_point in self._promising(stacks))
                if self._left <= 0:
                    return
            reached.discard(frozenset())
            beam = sorted(reached, key=len, reverse=True)[:width]

    def _check_ways(self, stacks: _Stacks) -> None:
        """Follows the characters that most ways allow, as far as a token goes, and counts the ways."""
        ways = dict.fromkeys(stacks, 1)
        for _ in range(TOKEN_CHARACTERS):
            code_point = next(iter(self._promising(frozenset(ways))), None)
            if code_point is None or self._left <= 0:
                return
            reached: dict[_Stack, int] = {}
            for stack, count in ways.items():
                for following in self._after(frozenset((stack,)), code_point):
                    reached[following] = reached.get(following, 0) + count
            ways = reached
            if sum(ways.values()) > MAX_WAYS:
                raise _too_ambiguous()

    def _promising(self, stacks: _Stacks) -> list[int]:
        """Gives the characters that most stacks allow, and a random one."""
        sets = [self._top(stack) for stack in stacks if stack is not None]
        candidates = set(_ORDINARY)
        for characters in sets[:32]:
            for first, last in characters.ranges[:4]:
                candidates.update((first, last, last + 1))
        allowed = {one: sum(characters.holds(one) for characters in sets) for one in sorted(candidates)}
        best = sorted((one for one in allowed if allowed[one]), key=lambda one: -allowed[one])
        rest = best[_PROMISING:]
        return best[:_PROMISING] + ([self._random.choice(rest)] if rest else [])

    def _top(self, stack: tuple[int, int, int, _Stack]) -> Characters:
        element = self._grammar.rules[stack[0]][stack[1]][stack[2]]
        return element if isinstance(element, Characters) else Characters(())

    def _after(self, stacks: _Stacks, code_point: int) -> _Stacks:
        taken = [one for one in stacks if one is not None and self._top(one).holds(code_point)]
        return self._closed(self._advanced(one) for one in taken)

    def _advanced(self, stack: tuple[int, int, int, _Stack]) -> _Stack:
        """Moves a stack past its top; a finished alternative leaves no trace, as in llama.cpp."""
        rule, alternative, element, below = stack
        last = element + 1 == len(self._grammar.rules[rule][alternative])
        return below if last else (rule, alternative, element + 1, below)

    def _entered(self, rule: int, below: _Stack) -> Iterator[_Stack]:
        for place, alternative in enumerate(self._grammar.rules[rule]):
            yield (rule, place, 0, below) if alternative else below

    def _closed(self, stacks: Iterable[_Stack]) -> _Stacks:
        """Replaces rules on top of stacks by what they begin with."""
        waiting = list(stacks)
        seen: set[_Stack] = set(waiting)
        closed: set[_Stack] = set()
        while waiting:
            stack = waiting.pop()
            element = None if stack is None else self._grammar.rules[stack[0]][stack[1]][stack[2]]
            if stack is None or not isinstance(element, int):
                closed.add(stack)
                if len(closed) > MAX_STACKS:
                    raise _too_ambiguous()
                continue
            entered = set(self._entered(element, self._advanced(stack))) - seen
            seen |= entered
            waiting += entered
        self._left -= len(seen)
        return frozenset(closed)


def _nested_in_themselves(grammar: Grammar) -> list[int]:
    """Finds rules that contain themselves with something after them, through others or not: a few of each group."""
    inside = _groups(grammar)
    nested: dict[int, set[int]] = {}
    for number, alternatives in enumerate(grammar.rules):
        for alternative in alternatives:
            for element in alternative[:-1]:
                if isinstance(element, int) and inside[element] == inside[number]:
                    nested.setdefault(inside[number], set()).add(element)
    return [number for group in nested.values() for number in sorted(group)[:_STARTS]]


def _groups(grammar: Grammar) -> list[int]:
    """Numbers the groups of rules that contain each other, by Kosaraju's algorithm: each rule's group."""
    contains = [
        sorted({element for one in alternatives for element in one if isinstance(element, int)})
        for alternatives in grammar.rules
    ]
    contained: list[list[int]] = [[] for _ in contains]
    for number, elements in enumerate(contains):
        for element in elements:
            contained[element].append(number)
    group = [-1] * len(contains)
    for number in reversed(list(_finished(contains))):
        waiting = [number]
        while waiting:
            one = waiting.pop()
            if group[one] < 0:
                group[one] = number
                waiting += contained[one]
    return group


def _finished(edges: list[list[int]]) -> Iterator[int]:
    """Gives the nodes in the order a depth-first search leaves them."""
    seen = [False] * len(edges)
    for first in range(len(edges)):
        path = [] if seen[first] else [(first, iter(edges[first]))]
        seen[first] = True
        while path:
            node, rest = path[-1]
            following = next((one for one in rest if not seen[one]), None)
            if following is None:
                path.pop()
                yield node
            else:
                seen[following] = True
                path.append((following, iter(edges[following])))


def _described(grammar: Grammar, number: int) -> str:
    names = [name for name, one in grammar.numbers.items() if one == number]
    return f"The rule {names[0]:.100}" if names else "A group or a repetition"


def _too_ambiguous() -> GrammarError:
    return GrammarError(
        "The grammar is too ambiguous: the same text can be read in too many ways. Let fewer repetitions and optional "
        "parts that allow the same characters follow each other."
    )
