"""Asks before what can't be taken back."""

import sys

import typer

from redoma_cli.errors import CliError


def confirm(question: str, yes: bool) -> None:
    """Asks and goes on only after a yes; `yes` says that it was given already.

    Raises:
        CliError: Nobody is there to ask.
        typer.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{question} Nobody is there to ask.", "Say so with --yes.")
    typer.confirm(question, abort=True, err=True)
