"""Finite automata over characters: deterministic, so that a text has one reading only however its pattern is written.

A pattern becomes a nondeterministic automaton (Thompson) and that a deterministic one (subset construction). What may be
computed is bounded, since patterns come from callers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from redoma_model.engine.code_points import ALL, CodePoints, common, holds, joined, others
from redoma_model.engine.schema_pattern import Anchor, Chain, Choice, Look, One, Pattern, PatternRefused, Repeat

# States of one automaton, as each is a rule of the grammar.
MAX_STATES = 1_200
MAX_PATTERN_STATES = 4_000
# Steps of work for all patterns of one schema: about a second.
MAX_WORK = 600_000


class Work:
    """What may still be computed for one schema."""

    def __init__(self, left: int = MAX_WORK) -> None:
        self._left = left

    def spend(self, steps: int) -> None:
        """Raises PatternRefused when there is nothing left."""
        self._left -= steps
        if self._left < 0:
            raise PatternRefused("is too complex")


@dataclass(frozen=True, slots=True)
class Automaton:
    """A deterministic automaton that begins in state 0, each state of which leads to an end.

    Attributes:
        moves: For each state, disjoint sets of characters with the state each leads to.
        ends: Whether a text may end in a state.
    """

    moves: tuple[tuple[tuple[CodePoints, int], ...], ...]
    ends: tuple[bool, ...]

    def accepts(self, text: str) -> bool:
        """Tells whether a text is of the language."""
        state = 0
        for character in text:
            found = (target for characters, target in self.moves[state] if holds(characters, ord(character)))
            state = next(found, -1)
            if state < 0:
                return False
        return bool(self.ends) and self.ends[state]

    @property
    def empty(self) -> bool:
        """Whether no text is of the language."""
        return not self.ends


NOTHING = Automaton((), ())


def of_length(least: int, most: int | None) -> Automaton:
    """Gives the automaton of all texts of some length in characters."""
    last = least if most is None else most
    moves = tuple(((ALL, state + 1),) for state in range(last))
    return Automaton((*moves, ((ALL, last),) if most is None else ()), tuple(state >= least for state in range(last + 1)))


def lengths(automaton: Automaton) -> tuple[int, int | None]:
    """Gives the fewest and most characters of a text; None is without end."""
    depth = {0: 0}
    waiting = [0]
    for state in waiting:
        for _, target in automaton.moves[state]:
            if target not in depth:
                depth[target] = depth[state] + 1
                waiting.append(target)
    least = min(depth[state] for state in depth if automaton.ends[state])
    longest = {state: -1 for state in depth}
    order = list(_leaving(automaton))
    place = {state: index for index, state in enumerate(order)}
    for state in order:
        if any(place[target] >= place[state] for _, target in automaton.moves[state]):
            return least, None
        longest[state] = max((longest[target] + 1 for _, target in automaton.moves[state]), default=0)
    return least, longest[0]


def both(one: Automaton, other: Automaton, work: Work) -> Automaton:
    """Gives the automaton of the texts that are of both languages."""
    if one.empty or other.empty:
        return NOTHING
    numbers = {(0, 0): 0}
    pairs = [(0, 0)]
    moves: list[list[tuple[CodePoints, int]]] = []
    for first, second in pairs:
        found: list[tuple[CodePoints, int]] = []
        for characters, target in one.moves[first]:
            for others_, with_ in other.moves[second]:
                work.spend(1 + (len(characters) + len(others_)) // 4)
                if shared := common(characters, others_):
                    pair = (target, with_)
                    if pair not in numbers:
                        numbers[pair] = len(pairs)
                        pairs.append(pair)
                    found.append((shared, numbers[pair]))
        moves.append(found)
        if len(pairs) > 8 * MAX_STATES:
            raise PatternRefused("is too complex")
    return _trimmed(moves, [one.ends[first] and other.ends[second] for first, second in pairs])


def other_than(automaton: Automaton) -> Automaton:
    """Gives the automaton of the texts that are not of the language."""
    sink = len(automaton.ends)
    moves: list[list[tuple[CodePoints, int]]] = []
    for state in automaton.moves:
        rest = others(joined(each for characters, _ in state for each in characters))
        moves.append([*state, *([(rest, sink)] if rest else [])])
    return _trimmed([*moves, [(ALL, sink)]], [not end for end in (*automaton.ends, False)])


def automaton_of(pattern: Pattern, work: Work, sure: bool = True) -> Automaton:
    """Gives the automaton of the texts in which a pattern is found.

    Args:
        pattern: What to find.
        work: Bounds what may be computed.
        sure: Whether every dialect must find it, or one is enough.

    Raises:
        PatternRefused: It is too complex, or looks around other than at the beginning.
    """
    pattern, looks = _without_looks(pattern)
    found = _Determined(_Thompson(sure).whole(pattern), work).automaton()
    for look in looks:
        inner = automaton_of(Chain((Anchor(True), look.inner)), work, sure != look.negative)
        found = both(found, other_than(inner) if look.negative else inner, work)
    return found


def _without_looks(pattern: Pattern) -> tuple[Pattern, Sequence[Look]]:
    """Takes what a pattern looks ahead at from right behind its first anchor."""
    if not isinstance(pattern, Chain) or pattern.parts[:1] != (Anchor(True),):
        return pattern, ()
    rest = list(pattern.parts[1:])
    looks: list[Look] = []
    while rest and isinstance(rest[0], Look):
        looks.append(rest.pop(0))  # type: ignore[arg-type]
    return Chain((Anchor(True), *rest)), looks


@dataclass(slots=True)
class _State:
    """A state of a nondeterministic automaton: where one goes by a character, and without one."""

    moves: list[tuple[CodePoints, int]] = field(default_factory=list)
    free: list[tuple[Anchor | None, int]] = field(default_factory=list)


class _Thompson:
    """A nondeterministic automaton in the making; state 0 is its beginning, state 1 its end."""

    def __init__(self, sure: bool) -> None:
        self._sure = sure
        self._states: list[_State] = [_State(), _State()]

    def whole(self, pattern: Pattern) -> list[_State]:
        """Gives the automaton that finds a pattern anywhere in a text."""
        self._states[0].moves.append((ALL, 0))
        self._states[1].moves.append((ALL, 1))
        first = self._new()
        self._states[0].free.append((None, first))
        self._states[self._after(pattern, first)].free.append((None, 1))
        return self._states

    def _new(self) -> int:
        if len(self._states) >= MAX_PATTERN_STATES:
            raise PatternRefused("is too complex")
        self._states.append(_State())
        return len(self._states) - 1

    def _after(self, pattern: Pattern, begin: int) -> int:
        """Adds a pattern at a state; gives the state after it."""
        match pattern:
            case Chain(parts):
                for part in parts:
                    begin = self._after(part, begin)
                return begin
            case Choice(parts):
                end = self._new()
                for part in parts:
                    self._join(self._after(part, self._from(begin)), end)
                return end
            case Repeat():
                return self._repeated(pattern, begin)
            case One(sure, maybe):
                end = self._new()
                self._states[begin].moves.append((sure if self._sure else maybe, end))
                return end
            case Anchor():
                end = self._new()
                self._states[begin].free.append((pattern, end))
                return end
            case Look():
                raise PatternRefused("looks around, which can be followed only right behind ^")

    def _repeated(self, pattern: Repeat, begin: int) -> int:
        for _ in range(pattern.least):
            begin = self._after(pattern.inner, begin)
        if pattern.most is None:
            loop = self._from(begin)
            self._join(self._after(pattern.inner, loop), loop)
            return self._from(loop)
        end = self._new()
        for _ in range(pattern.most - pattern.least):
            self._join(begin, end)
            begin = self._after(pattern.inner, self._from(begin))
        self._join(begin, end)
        return end

    def _from(self, state: int) -> int:
        new = self._new()
        self._join(state, new)
        return new

    def _join(self, state: int, other: int) -> None:
        self._states[state].free.append((None, other))


class _Determined:
    """The subset construction."""

    def __init__(self, states: list[_State], work: Work) -> None:
        self._states = states
        self._work = work
        self._classes = _classes(states, work)

    def automaton(self) -> Automaton:
        """Gives the deterministic automaton."""
        first = self._closed({0}, begin=True, end=False)
        # The beginning is apart from the same states later on, where ^ no longer holds.
        numbers: dict[frozenset[int] | None, int] = {None: 0}
        subsets = [first]
        moves: list[list[tuple[CodePoints, int]]] = []
        ends = [1 in self._closed(set(first), begin=True, end=True)]
        for subset in subsets:
            found: dict[int, list[tuple[int, int]]] = {}
            for characters, targets in self._steps(subset):
                reached = self._closed(targets, begin=False, end=False)
                if reached not in numbers:
                    numbers[reached] = len(subsets)
                    subsets.append(reached)
                    ends.append(1 in self._closed(set(reached), begin=False, end=True))
                found.setdefault(numbers[reached], []).extend(characters)
            moves.append([(joined(ranges), target) for target, ranges in found.items()])
            if len(subsets) > 8 * MAX_STATES:
                raise PatternRefused("is too complex")
        return _trimmed(moves, ends)

    def _steps(self, subset: frozenset[int]) -> Iterator[tuple[CodePoints, set[int]]]:
        """Gives, for each set of characters that are alike in the pattern, the states they lead to."""
        by_class: dict[int, set[int]] = {}
        for state in subset:
            for characters, target in self._states[state].moves:
                alike = self._classes[characters]
                self._work.spend(len(alike))
                for one in alike:
                    by_class.setdefault(one, set()).add(target)
        by_targets: dict[frozenset[int], list[tuple[int, int]]] = {}
        for one, targets in by_class.items():
            by_targets.setdefault(frozenset(targets), []).extend(self._ranges[one])
        for found, ranges in by_targets.items():
            yield tuple(ranges), set(found)

    @property
    def _ranges(self) -> list[CodePoints]:
        return self._classes_ranges

    _classes_ranges: list[CodePoints]

    def _closed(self, states: set[int], begin: bool, end: bool) -> frozenset[int]:
        """Adds what is reached without a character."""
        waiting = list(states)
        while waiting:
            for anchor, target in self._states[waiting.pop()].free:
                allowed = anchor is None or (begin if anchor.begin else end)
                if allowed and target not in states:
                    states.add(target)
                    waiting.append(target)
        self._work.spend(len(states))
        return frozenset({1}) if 1 in states else frozenset(states)
