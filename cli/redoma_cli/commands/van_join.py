"""`redoma van join`: makes the private site of this machine part of a network."""

from typing import Annotated

import typer

from redoma_cli.client import read_demo
from redoma_cli.commands.options import DriverOption, LinkFileOption
from redoma_cli.commands.up import Wanted, bring_up, check_link_file, read_token
from redoma_cli.context import make_context
from redoma_cli.errors import CliError
from redoma_cli.join_token import token_address
from redoma_cli.local.options import Sites, read_choice
from redoma_cli.local.up import site_lock

TokenArgument = Annotated[
    str, typer.Argument(metavar="TOKEN", help="What `redoma van grant` printed; - reads it from stdin.")
]


def join(
    token: TokenArgument,
    link_file: LinkFileOption = None,
    driver: DriverOption = None,
) -> None:
    """Join the private site of this machine to a network, start what it needs, and wait until it is linked.

    The site's keys are made here and never leave. A token works once.
    """
    context = make_context()
    text = read_token(token)
    token_address(text)
    choice = read_choice(context.home)
    if (choice.sites if choice else Sites.BOTH) is not Sites.PRIVATE and read_demo(context.home) is not None:
        raise CliError(
            "This machine runs the public site, and its private one is joined by `redoma up`.",
            "Join on the private site's machine, or in another home: REDOMA_HOME=DIRECTORY redoma van join TOKEN",
        )
    check_link_file(context, link_file)
    context.home.create()
    with site_lock(context.home):
        bring_up(context, Wanted(Sites.PRIVATE, text, "", driver, link_file))
