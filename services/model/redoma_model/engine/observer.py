"""What the engine reports while it works; for metrics. Never content."""

from typing import Protocol


class EngineObserver(Protocol):
    """Called on the engine's thread; must be quick."""

    def loading(self, progress: float) -> None:
        """The weights are loaded to this part, 0 to 1."""

    def admitted(self, input_tokens: int, cached_tokens: int, queue_s: float) -> None:
        """A request got its place in the batch."""

    def first_token(self, since_submit_s: float) -> None:
        """A request's first token was sampled."""

    def step(self, duration_s: float, output_tokens: int) -> None:
        """A step was computed."""

    def preempted(self) -> None:
        """A request gave its place up for a time."""

    def ended(self, output_tokens: int) -> None:
        """A request ended, however it did."""

    def occupied(self, running: int, waiting: int, used_cells: int, cached_cells: int) -> None:
        """This is in use now."""
