"""Shows what a private site of this machine knows of its own link."""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from redoma_cli.commands.conditions import headline
from redoma_cli.commands.up_progress import MARKS
from redoma_cli.errors import CliError
from redoma_cli.local.membership import MembershipState
from redoma_cli.network import health_of_state


def show_state(out: Console, state: MembershipState) -> None:
    """Explains the link of a private site."""
    health = health_of_state(state)
    out.print(headline(health, datetime.now(UTC)))
    if state.link_address:
        out.print(f"  public site  {escape(state.link_address)}")
    if health.sentence:
        out.print(f"  [yellow]{escape(health.sentence)}[/]")
    if health.mend:
        out.print(f"  [bold]mend:[/] {escape(health.mend)}")
    for step in state.steps:
        detail = f" [dim]{escape(step.detail)}[/]" if step.detail and step.state != "failed" else ""
        out.print(f"  {MARKS.get(step.state, ' ')} {escape(step.title)}{detail}")


def state_as_json(directory: Path) -> None:
    """Prints the file that the private site's provisioner keeps; it holds no secret.

    Raises:
        CliError: It can't be read.
    """
    try:
        print((directory / "state.json").read_text().strip(), flush=True)
    except OSError as error:
        raise CliError(
            f"{error.filename} can't be read: {error.strerror}.", "redoma doctor looks for the cause."
        ) from error
