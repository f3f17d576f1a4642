"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from redoma_cli.local.driver import Driver

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
SchemaOption = Annotated[
    Path | None,
    typer.Option("--json-schema", metavar="FILE", help="Answer with JSON that the JSON Schema in this file describes."),
]
JsonObjectOption = Annotated[bool, typer.Option("--json-object", help="Answer with a JSON object.")]
GrammarOption = Annotated[
    Path | None,
    typer.Option("--grammar", metavar="FILE", help="Answer as the GBNF grammar in this file allows."),
]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, such as acme.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
EtagOption = Annotated[
    str, typer.Option("--etag", help="Refuse if it was changed since; `--json` shows the etag of what there is.")
]
DriverOption = Annotated[
    Driver | None,
    typer.Option(
        "--driver",
        envvar="REDOMA_VAN_DRIVER",
        help="With --site public or private: what carries the links; Envoy alone, or what it was before, if left out.",
    ),
]
LinkFileOption = Annotated[
    Path | None,
    typer.Option("--link-file", metavar="FILE", help="With a Skupper driver: what `skupper link generate` wrote."),
]
VanAddressOption = Annotated[
    str,
    typer.Option(
        "--van-address",
        envvar="REDOMA_VAN_ADDRESS",
        metavar="HOST:PORT",
        help="With --site public: where private sites reach this machine; put into tokens.",
    ),
]
