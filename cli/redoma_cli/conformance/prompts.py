"""Prompts that nobody has sent before."""

import random

WORDS = (
    "amber anchor basin beacon birch bridge canyon cedar cinder cobalt copper coral dune ember fjord garnet glacier harbor "
    "hazel heron indigo island ivory jasper juniper kelp lagoon lantern larch ledger lichen linen marble meadow mercury "
    "monsoon nectar nickel oasis obsidian olive opal orchard pebble pepper pine plateau prairie quarry quartz raven reef "
    "ridge saffron sandal shale sierra silver spruce summit tallow thicket timber topaz tundra valley velvet walnut willow"
).split()
LONG_WORDS, SHORT_WORDS = 500, 6


def long_prompt(rng: random.Random) -> str:
    """Gives a text long enough that computing it anew is noticed."""
    return f"{_words(rng, LONG_WORDS)}\nSay one word."


def short_prompt(rng: random.Random) -> str:
    """Gives a short text."""
    return f"Tell a story of {_words(rng, SHORT_WORDS)}."


def marker(rng: random.Random) -> str:
    """Gives a word that occurs nowhere else."""
    return f"marker{rng.getrandbits(64):016x}"


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))
