"""Deterministic finite automata over characters: a text has one reading only, however its pattern is written.

What may be computed is bounded, since patterns come from callers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redoma_model.forms.code_points import ALL, CodePoints, common, holds, joined, others
from redoma_model.forms.schema_pattern import PatternRefused

# States of one automaton, as each is a rule of the grammar.
MAX_STATES = 1_200
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
    return Automaton(
        (*moves, ((ALL, last),) if most is None else ()), tuple(state >= least for state in range(last + 1))
    )


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
    longest = dict.fromkeys(depth, -1)
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
    return trimmed(moves, [one.ends[first] and other.ends[second] for first, second in pairs])


def other_than(automaton: Automaton) -> Automaton:
    """Gives the automaton of the texts that are not of the language."""
    sink = len(automaton.ends)
    moves: list[list[tuple[CodePoints, int]]] = []
    for state in automaton.moves:
        rest = others(joined(each for characters, _ in state for each in characters))
        moves.append([*state, *([(rest, sink)] if rest else [])])
    return trimmed([*moves, [(ALL, sink)]], [not end for end in (*automaton.ends, False)])


def trimmed(moves: Sequence[Sequence[tuple[CodePoints, int]]], ends: Sequence[bool]) -> Automaton:
    """Gives the automaton without states that lead to no end, and with states joined that go on alike.

    Raises:
        PatternRefused: It has too many states.
    """
    raw = Automaton(tuple(tuple(one) for one in moves), tuple(ends))
    alive = _alive(raw)
    if 0 not in alive:
        return NOTHING
    joint: dict[int, int] = {}
    known: dict[object, int] = {}
    kept: dict[int, dict[int, CodePoints]] = {}
    for state in _leaving(raw):
        if state in alive:
            found: dict[int, list[tuple[int, int]]] = {}
            for characters, target in raw.moves[state]:
                if target in alive:
                    found.setdefault(-1 if target == state else joint.get(target, target), []).extend(characters)
            sets = {target: joined(ranges) for target, ranges in found.items()}
            joint[state] = known.setdefault((raw.ends[state], tuple(sorted(sets.items()))), state)
            kept[state] = {state if target < 0 else target: characters for target, characters in sets.items()}
    return _renumbered(kept, joint, raw.ends)


def _renumbered(kept: dict[int, dict[int, CodePoints]], joint: dict[int, int], ends: Sequence[bool]) -> Automaton:
    order = [joint[0]]
    numbers = {joint[0]: 0}
    for state in order:
        for target in (joint[one] for one in kept[state]):
            if target not in numbers:
                numbers[target] = len(order)
                order.append(target)
    if len(order) > MAX_STATES:
        raise PatternRefused("is too complex")
    moves = (
        tuple((characters, numbers[joint[target]]) for target, characters in kept[state].items()) for state in order
    )
    return Automaton(tuple(moves), tuple(ends[state] for state in order))


def _alive(automaton: Automaton) -> set[int]:
    """Finds the states from which there is a way to an end."""
    sources: dict[int, list[int]] = {}
    for state, moves in enumerate(automaton.moves):
        for _, target in moves:
            sources.setdefault(target, []).append(state)
    waiting = [state for state, end in enumerate(automaton.ends) if end]
    alive = set(waiting)
    while waiting:
        for state in sources.get(waiting.pop(), ()):
            if state not in alive:
                alive.add(state)
                waiting.append(state)
    return alive


def _leaving(automaton: Automaton) -> Iterator[int]:
    """Gives the states in the order a depth-first search from the first leaves them."""
    seen = {0}
    path = [(0, iter(automaton.moves[0]))]
    while path:
        state, rest = path[-1]
        following = next((target for _, target in rest if target not in seen), None)
        if following is None:
            path.pop()
            yield state
        else:
            seen.add(following)
            path.append((following, iter(automaton.moves[following])))
