"""An EngineObserver for driving an engine by itself."""


class SilentObserver:
    """Reports nothing."""

    def loading(self, progress: float) -> None:
        """Ignores it."""

    def admitted(self, input_tokens: int, cached_tokens: int, queue_s: float) -> None:
        """Ignores it."""

    def first_token(self, since_submit_s: float) -> None:
        """Ignores it."""

    def step(self, duration_s: float, output_tokens: int) -> None:
        """Ignores it."""

    def preempted(self) -> None:
        """Ignores it."""

    def ended(self, output_tokens: int) -> None:
        """Ignores it."""

    def occupied(self, running: int, waiting: int, used_cells: int, cached_cells: int) -> None:
        """Ignores it."""
