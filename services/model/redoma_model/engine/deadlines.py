"""Requests that can't give their first token before their caller gives up: refused early, so that nothing is
computed in vain and the caller knows at once."""

from redoma_model.engine.pace import Pace
from redoma_model.engine.places import Places
from redoma_model.engine.scheduler import Line
from redoma_model.engine.sequence import NO_SLOT, Sequence
from redoma_model.errors import DeadlineUnreachable

# How often all deadlines are looked at, in seconds.
EVERY_S = 0.1


class Deadlines:
    """Tells which requests are hopeless.

    One is when its prompt alone takes longer to compute than is left, and is taken to be when half the pace at which
    its tenant's line moves would bring it to the head too late. What a prompt takes is asked of the pace, once that
    knows.
    """

    def __init__(self, places: Places, pace: Pace) -> None:
        self._places = places
        self._pace = pace
        self._next_at = 0.0

    def hopeless(self, now: float) -> list[tuple[Sequence, DeadlineUnreachable]]:
        """Gives the requests to refuse, with the refusal; nothing when it was asked a moment ago."""
        if now < self._next_at:
            return []
        self._next_at = now + EVERY_S
        found: list[tuple[Sequence, DeadlineUnreachable]] = []
        for line in self._places.scheduler.lines():
            found += self._of_line(line, now)
        return found

    def refusal(self, sequence: Sequence, now: float, queue_s: float = 0.0) -> DeadlineUnreachable | None:
        """Gives why a request that has given nothing yet is hopeless, or None; `queue_s` is how long it waits at
        least."""
        if sequence.deadline is None or not sequence.is_fresh:
            return None
        remaining_s = sequence.deadline - now
        needed_s = self._needed_s(sequence, queue_s, remaining_s)
        return DeadlineUnreachable(max(0.0, remaining_s), needed_s) if needed_s > remaining_s else None

    def _of_line(self, line: Line, now: float) -> list[tuple[Sequence, DeadlineUnreachable]]:
        found: list[tuple[Sequence, DeadlineUnreachable]] = []
        # As many as there are slots may be let in at once.
        place = 1 - self._places.scheduler.capacity.slots
        for sequence in line.waiting:
            refusal = self.refusal(sequence, now, max(0, place) * line.interval_s / 2)
            if refusal is None:
                place += 1
            else:
                found.append((sequence, refusal))
        for sequence in line.running:
            refusal = self.refusal(sequence, now)
            if refusal is not None:
                found.append((sequence, refusal))
        return found

    def _needed_s(self, sequence: Sequence, queue_s: float, enough_s: float) -> float:
        """Gives the least time until the first token; what is cached is only asked when it matters."""
        computed = sequence.computed
        needed_s = queue_s + self._prompt_s(computed, len(sequence.tokens))
        if not self._pace.knows_prompts or needed_s <= enough_s:
            return queue_s
        if sequence.slot == NO_SLOT and sequence.saved is None:
            computed = self._places.reusable(sequence)
        return queue_s + self._prompt_s(computed, len(sequence.tokens))

    def _prompt_s(self, begin: int, end: int) -> float:
        tokens = end - begin
        return self._pace.step_s(1, tokens - 1, tokens * (begin + end) / 2)
