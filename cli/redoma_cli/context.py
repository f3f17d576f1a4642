"""What every command knows: the environment, the home, and where to write."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from redoma_cli.client import EdgeClient, choose_edge, choose_key, read_demo
from redoma_cli.errors import CliError
from redoma_cli.local.home import Home, find_checkout, find_home
from redoma_cli.local.options import Sites, read_choice

PIPE_WIDTH = 1000


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The surroundings of one run of the program.

    Attributes:
        environ: Environment variables.
        checkout: The source checkout it runs from, if any.
        home: Where the local site lives.
        out: Where answers go.
        err: Where progress and errors go.
    """

    environ: Mapping[str, str]
    checkout: Path | None
    home: Home
    out: Console
    err: Console

    def client(self, edge: str | None, key: str | None, role: str = "") -> EdgeClient:
        """Gives a client of the edge named, or the local one; `role` says whose key to take when none is named.

        Raises:
            CliError: There is no key, or the edge's URL is wrong.
        """
        demo = read_demo(self.home)
        choice = read_choice(self.home)
        if demo is None and not key and choice is not None and choice.sites is Sites.PRIVATE:
            raise CliError(
                "This machine runs the private site alone; keys and the edge are on the public site's machine.",
                "Do it there, or name both: --edge URL --key KEY.",
            )
        return EdgeClient(choose_edge(edge, demo, self.environ), choose_key(key, demo, role))


def make_context() -> CommandContext:
    """Reads the surroundings of this process.

    Raises:
        CliError: $REDOMA_HOME can't be a home.
    """
    checkout = find_checkout()
    # What is read by a program is never cut to a width.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    out = Console(highlight=False, soft_wrap=True, width=width)
    return CommandContext(os.environ, checkout, find_home(os.environ, checkout), out, error_console())


def error_console() -> Console:
    """Gives where progress and errors go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
