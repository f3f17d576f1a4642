"""Prompts that no cache has seen: each begins with a number of its own, so that no two share a block of tokens."""

import random
from collections.abc import Iterator

from tests.bench.load import Ask, Turn

WORDS = (
    "river lantern harvest copper window market letter garden winter bridge engine forest mirror station teacher "
    "island paper shadow basket corner summer violin kitchen captain desert signal pocket morning thunder ladder "
    "cotton museum harbour silver meadow doctor castle button orange pencil valley singer hammer ticket feather "
    "rocket blanket sailor"
)
STORY = "Write a long story about a glass dome, and about everyone who lives around it."


class Prompts:
    """Makes prompts from a seed: the same seed gives the same ones."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._words = WORDS.split()
        self._serial = 100_000

    def passage(self, words: int) -> str:
        """Gives so many words in an order of their own."""
        return " ".join(self._random.choices(self._words, k=words))

    def number(self) -> str:
        """Gives a number of six digits that was not given before; its first digits change the fastest."""
        self._serial += 1
        return f"{self._serial:06d}"[::-1]

    def turns(self, content: str) -> tuple[Turn, ...]:
        """Gives a conversation of one question whose system message is unlike any other's from its start."""
        return (("system", self.number()), ("user", content))

    def story(self, tenant: str, tokens: int) -> Ask:
        """Asks for a story of so many tokens; the prompt has some 40."""
        return Ask(tenant, self.turns(STORY), tokens)

    def stories(self, tenant: str, least_tokens: int, most_tokens: int) -> Iterator[Ask]:
        """Asks for story after story, of any length between the two."""
        while True:
            yield self.story(tenant, self._random.randint(least_tokens, most_tokens))
