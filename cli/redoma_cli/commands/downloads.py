"""What comes over the wire piece by piece."""

from collections.abc import Iterable, Iterator

from rich.markup import escape
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from redoma_cli.context import CommandContext


def shown(context: CommandContext, title: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Gives the pieces as they come, and shows on a terminal how much of it has come."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=context.err, transient=True, disable=not context.err.is_terminal) as progress:
        task = progress.add_task(escape(title), total=None)
        for piece in pieces:
            yield piece
            progress.advance(task, len(piece))
