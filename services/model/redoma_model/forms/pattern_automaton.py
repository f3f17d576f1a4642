"""From a pattern to a deterministic automaton: Thompson's construction, then the subset construction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from redoma_model.forms.automaton import MAX_STATES, Automaton, Work, both, other_than, trimmed
from redoma_model.forms.code_points import ALL, CodePoints, holds, joined
from redoma_model.forms.schema_pattern import Anchor, Chain, Choice, Look, One, Pattern, PatternRefused, Repeat

MAX_PATTERN_STATES = 4_000


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
        self._ranges, self._classes = _alike(states, work)

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
        return trimmed(moves, ends)

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
        return frozenset({1}) if 1 in states else frozenset(filter(self._matters, states))

    def _matters(self, state: int) -> bool:
        """Tells whether anything but what was followed already leaves a state."""
        return bool(self._states[state].moves) or any(anchor is not None for anchor, _ in self._states[state].free)


def _alike(states: list[_State], work: Work) -> tuple[list[CodePoints], dict[CodePoints, list[int]]]:
    """Finds characters that are alike to all sets in use: them, and which of them each set holds."""
    sets = {characters for state in states for characters, _ in state.moves}
    edges = sorted({edge for characters in sets for first, last in characters for edge in (first, last + 1)})
    work.spend(len(edges) * len(sets))
    by_sets: dict[frozenset[CodePoints], list[tuple[int, int]]] = {}
    for first, after in pairwise(edges):
        if members := frozenset(one for one in sets if holds(one, first)):
            by_sets.setdefault(members, []).append((first, after - 1))
    found: dict[CodePoints, list[int]] = {one: [] for one in sets}
    for number, members in enumerate(by_sets):
        for one in members:
            found[one].append(number)
    return [joined(ranges) for ranges in by_sets.values()], found
