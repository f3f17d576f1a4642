"""Shows a run while it goes on: a live line for each check that runs, one that stays for each that is over."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from redoma_cli.conformance.check import Check
from redoma_cli.conformance.report import mark_line
from redoma_cli.conformance.results import CheckResult


class LiveProgress:
    """A watcher for a console; where that is no terminal only the lines that stay are written."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[id]:<22}"),
            TextColumn("[dim]{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def began(self, check: Check) -> None:
        """A check begins."""
        self._lines[check.id] = self._progress.add_task("", total=None, id=check.id)

    def stepped(self, check: Check, step: str) -> None:
        """It goes on to its next step."""
        self._progress.update(self._lines[check.id], description=escape(step))

    def ended(self, check: Check, result: CheckResult) -> None:
        """It is over."""
        self._progress.remove_task(self._lines.pop(check.id))
        self._console.print(mark_line(result))
