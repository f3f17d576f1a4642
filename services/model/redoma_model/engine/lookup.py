"""Prompt-lookup drafts: the next tokens are guessed from where the last few stood before in the same text.

The guesses are computed together with the last token and then sampled one after the other by the request's own
sampler; the first that it does not pick ends the run. So what is emitted is what would have been emitted without
guesses. The idea is Apoorv Saxena's, "Prompt Lookup Decoding" (2023).
"""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

NGRAM = 3
# How fast the estimate of acceptance follows, within one text and over all of them, and where the latter starts.
FOLLOWS = 0.2
ALL_FOLLOW = 0.02
FIRST_GUESS = 0.6
# Steps to hold drafts back after one of which nothing was taken; doubles each time, up to the most.
LEAST_PAUSE = 2
MOST_PAUSE = 64
# Steps between two tries where no guess is likely to pay.
PROBE_EVERY = 16


class PromptLookup:
    """The places of every n-gram of one sequence, and how well guesses went."""

    __slots__ = ("_indexed", "_misses", "_pause", "_places", "_tokens", "acceptance")

    def __init__(self, tokens: Sequence[int], acceptance: float = FIRST_GUESS) -> None:
        """Begins over `tokens`, which the caller appends to, with how well guesses went elsewhere."""
        self._tokens = tokens
        self._places: dict[tuple[int, ...], int] = {}
        self._indexed = NGRAM
        self._pause = 0
        self._misses = 0
        # The chance that a draft is taken, given that those before it were.
        self.acceptance = acceptance

    def draft(self, most: int, pays: Callable[[float], bool]) -> tuple[int, ...]:
        """Guesses the tokens that follow, at most `most` and as many as are taken with a chance that pays.

        None when the last few never stood before, or for a while after guesses went badly. Where no guess pays, one is
        tried now and then to see whether that has changed.
        """
        if self._pause > 0:
            self._pause -= 1
            return ()
        tokens = self._tokens
        for end in range(self._indexed, len(tokens)):
            self._places[tuple(tokens[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        place = self._places.get(tuple(tokens[-NGRAM:]))
        if place is None:
            return ()
        # A text that repeats itself goes on with what was just guessed.
        period = tokens[place:]
        return tuple(islice(cycle(period), self._worth(most, pays)))

    def settle(self, proposed: int, accepted: int) -> float:
        """Learns how many of the proposed tokens were taken, and gives that as a part of those that were judged."""
        taken = accepted / min(proposed, accepted + 1)
        self.acceptance += FOLLOWS * (taken - self.acceptance)
        if accepted:
            self._misses = 0
        else:
            self._pause = max(self._pause, min(MOST_PAUSE, LEAST_PAUSE << self._misses))
            self._misses = min(self._misses + 1, 8)
        return taken

    def _worth(self, most: int, pays: Callable[[float], bool]) -> int:
        if not pays(self.acceptance):
            self._pause = PROBE_EVERY
            return min(1, most)
        count, chance = 1, self.acceptance
        while count < most and pays(chance := chance * self.acceptance):
            count += 1
        return min(count, most)
