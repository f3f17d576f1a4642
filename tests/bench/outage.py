"""What a caller notices while something is broken: calls that fail, from the first of them until it works again."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visit:
    """One call, in monotonic seconds.

    Attributes:
        began: When it was made.
        ended: When its answer or its failure came.
        ok: Whether it was answered.
    """

    began: float
    ended: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without answers.

    Attributes:
        recovery_s: From when the first call failed to when the first one after it was answered, in seconds.
        unsteady_s: From then to when the last call failed, in seconds: 0 if none did any more.
        failures: How many calls failed in all.
    """

    recovery_s: float
    unsteady_s: float
    failures: int


def outage_of(visits: Sequence[Visit]) -> Outage | None:
    """Looks for an outage in calls that one caller made one after the other; None if none failed.

    Raises:
        ValueError: None was answered after the first failure.
    """
    failed = [visit for visit in visits if not visit.ok]
    if not failed:
        return None
    first = failed[0]
    answered = next((visit for visit in visits if visit.ok and visit.began >= first.ended), None)
    if answered is None:
        raise ValueError("nothing was answered after the first failure")
    unsteady_s = max(0.0, failed[-1].ended - answered.ended)
    return Outage(answered.ended - first.ended, unsteady_s, len(failed))
