"""When a call must have ended."""

from collections.abc import Callable
from dataclasses import dataclass

# The model's part ends this much earlier, so that the caller hears of it from us and not from its own clock.
MARGIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a monotonic clock, in seconds."""

    at_s: float
    clock: Callable[[], float]

    @property
    def remaining_s(self) -> float:
        """Seconds left for other services' part of the work; never below a small positive number."""
        return max(self.at_s - self.clock() - MARGIN_S, 0.01)

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.clock() >= self.at_s
