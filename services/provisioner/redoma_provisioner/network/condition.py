"""What is said of a site, a link, a listener or a connector, in words that a person understands."""

from dataclasses import dataclass
from datetime import datetime

CONFIGURED, OPERATIONAL = "Configured", "Operational"
MATCHED, REACHABLE = "Matched", "Reachable"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is said of a resource.

    Attributes:
        type: What it says, such as "Operational".
        holds: Whether it does; None is not known.
        reason: Why, as one word for programs, such as "NoTunnels".
        message: Why, and what to do about it, as a sentence; empty where all is well.
        since: When `holds` changed last; None until a reconciler has compared it with what was said before.
    """

    type: str
    holds: bool | None
    reason: str
    message: str = ""
    since: datetime | None = None


def carried_on(now: datetime, former: tuple[Condition, ...], told: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Gives what is told with the time since when each holds: the former one where nothing changed, else `now`."""
    since = {condition.type: (condition.holds, condition.since) for condition in former}
    dated = []
    for condition in told:
        holds, time = since.get(condition.type, (None, None))
        kept = time is not None and holds == condition.holds
        dated.append(
            Condition(condition.type, condition.holds, condition.reason, condition.message, time if kept else now)
        )
    return tuple(dated)
