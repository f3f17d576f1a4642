"""Options that several commands take."""

from typing import Annotated

import typer

EdgeOption = Annotated[
    str | None,
    typer.Option("--edge", envvar="REDOMA_EDGE", metavar="URL", help="The edge to call; the local site's by default."),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="REDOMA_API_KEY", metavar="KEY", help="The API key to call with; the local site's by default."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
