"""Prompts that nobody has sent before."""

import random

WORDS = (
    *(
        "amber",
        "anchor",
        "basin",
        "beacon",
        "bridge",
        "canyon",
        "cedar",
        "coral",
        "ember",
        "garnet",
        "glacier",
        "harbor",
    ),
    *(
        "island",
        "ivory",
        "lagoon",
        "lantern",
        "marble",
        "meadow",
        "nickel",
        "oasis",
        "olive",
        "pepper",
        "quarry",
        "raven",
    ),
    *("saffron", "silver", "summit", "timber", "valley", "velvet", "walnut", "willow"),
)
LONG_WORDS, SHORT_WORDS = 500, 8


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
