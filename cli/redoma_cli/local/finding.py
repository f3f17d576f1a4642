"""What `redoma doctor` finds."""

import enum
from dataclasses import dataclass


class Health(enum.Enum):
    """How something is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: What was looked at.
        health: How it is.
        sentence: What was found.
        mend: What to do about it; empty when nothing needs doing.
    """

    subject: str
    health: Health
    sentence: str
    mend: str = ""
