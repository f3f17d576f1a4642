"""Shows a site as it comes up: the processes' states and the steps of joining."""

from collections.abc import Mapping

from rich.live import Live
from rich.markup import escape

from redoma_cli.commands.drawing import process_table
from redoma_cli.context import CommandContext
from redoma_cli.local.membership import Step
from redoma_cli.local.state import ProcessState, State

MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "running": "[yellow]…[/]"}


class UpProgress:
    """A live table for a person, a line for each change otherwise; steps are lines for both."""

    def __init__(self, context: CommandContext) -> None:
        self._console = context.err
        self._live = (
            Live(console=context.err, transient=True, refresh_per_second=8) if context.err.is_terminal else None
        )
        self._told: dict[str, State] = {}

    def __enter__(self) -> "UpProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Mapping[str, ProcessState]) -> None:
        """Shows the states as they are now."""
        if self._live:
            self._live.update(process_table(states))
            return
        for name, state in states.items():
            if self._told.get(name) is not state.state:
                self._told[name] = state.state
                self._console.print(f"{name}: {state.state.value}")

    def step(self, step: Step) -> None:
        """Tells a step that has ended, or that runs and says what it waits for; the others only pass by."""
        if step.state not in ("done", "failed") and not (step.state == "running" and step.detail):
            return
        # Why a step failed is what the command ends with.
        detail = f" [dim]{escape(step.detail)}[/]" if step.detail and step.state != "failed" else ""
        self._console.print(f"{MARKS[step.state]} {escape(step.title)}{detail}")
