"""The `redoma` program."""

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from redoma_cli.commands import (
    ask,
    audit,
    chat,
    conformance,
    engine,
    identity_provider,
    key,
    operation,
    operator,
    plan,
    price,
    privacy,
    quota,
    site,
    tenant,
    usage,
    user,
    van,
)
from redoma_cli.context import error_console
from redoma_cli.errors import CliError, error_from_os

INTERRUPTED = 130


def build_app() -> typer.Typer:
    """Gives the program with all its commands."""
    app = typer.Typer(
        name="redoma",
        help="Serve a private model to many tenants: run both sites on this machine, talk to it, administer it.",
        epilog="Examples:  redoma up  ·  redoma chat  ·  redoma ask 'What is a redoma?'",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    site.add_to(app)
    chat.add_to(app)
    ask.add_to(app)
    app.add_typer(tenant.build(), name="tenant")
    app.add_typer(key.build(), name="key")
    app.add_typer(user.build(), name="user")
    app.add_typer(identity_provider.build(), name="identity-provider")
    app.add_typer(operator.build(), name="operator")
    app.add_typer(quota.build(), name="quota")
    app.add_typer(plan.build(), name="plan")
    app.add_typer(price.build(), name="price")
    app.add_typer(privacy.build(), name="privacy")
    app.add_typer(usage.build(), name="usage")
    app.add_typer(audit.build(), name="audit")
    app.add_typer(engine.build(), name="engine")
    app.add_typer(van.build(), name="van")
    app.add_typer(operation.build(), name="operation")
    conformance.add_to(app)
    return app


def main() -> NoReturn:
    """Runs the command on the command line; a failure is told in one line with its mend."""
    try:
        build_app()()
    except CliError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except OSError as error:
        told = error_from_os(error)
        _tell(told)
        sys.exit(told.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _tell(error: CliError) -> None:
    console = error_console()
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.mend:
        console.print(f"[bold]mend:[/]  {escape(error.mend)}")


if __name__ == "__main__":
    main()
