"""`redoma operator`: the keys of those who run the platform."""

from typing import Annotated

import typer

from redoma.tenant.v1.api_key_pb2 import ApiKey, CreateApiKeyRequest
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S, read_demo
from redoma_cli.commands.key import CidrOption, ExpiryOption, OverlapOption, set_expiry
from redoma_cli.commands.keys import key_table, list_keys, revoke_key, rotate_key
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import print_json
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError
from redoma_cli.local.demo import write_demo

PLATFORM = "platform"
OperatorKeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="The first column of `redoma operator list`, or the whole resource name.")
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Make, list, rotate and revoke the keys of operators, who administer all tenants. From the first of them"
        " on the bootstrap key is refused.",
        epilog="Example:  redoma operator create --name 'Ana, on call'",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("create", epilog="Example:  redoma operator create --name Ana --cidr 203.0.113.0/24")(create)
    group.command("list", epilog="Example:  redoma operator list")(list_all)
    group.command("rotate", epilog="Example:  redoma operator rotate 3f0c9a12b4d5e6f7")(rotate)
    group.command("revoke", epilog="Example:  redoma operator revoke 3f0c9a12b4d5e6f7")(revoke)
    return group


def create(
    name: Annotated[str, typer.Option("--name", help="Who has it.")],
    expires_in: ExpiryOption = None,
    cidr: CidrOption = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key of an operator. It is shown this once. The first must not expire."""
    context = make_context()
    settings = ApiKey(display_name=name, cidrs=cidr or [])
    if expires_in is not None:
        set_expiry(settings, expires_in)
    with context.client(edge, key, ADMIN) as client, client.telling():
        is_first = not list_keys(client, PLATFORM)
        request = CreateApiKeyRequest(parent=PLATFORM, api_key=settings)
        made = client.keys.CreateApiKey(request, timeout=CALL_TIMEOUT_S)
    is_kept = is_first and edge is None and key is None and _keep(context, made.secret)
    if as_json:
        print_json(made)
        return
    print(made.secret, flush=True)
    context.err.print("Keep it: it is not shown again. Call with it by --key or REDOMA_API_KEY.")
    if is_first:
        context.err.print("The bootstrap key is refused from now on.")
    if is_kept:
        context.err.print(f"Commands on this machine call with the new key: it is kept in {context.home.demo_file}.")


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the keys of operators, the newest first."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        keys = list_keys(client, PLATFORM)
    if as_json:
        print_json(keys)
    else:
        context.out.print(key_table(keys))


def rotate(
    operator_key: OperatorKeyArgument,
    overlap: OverlapOption = "24h",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key that takes the place of another after an overlap. It is shown this once."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client:
        made = rotate_key(context, client, operator_key_resource(operator_key), overlap, as_json)
    demo = read_demo(context.home)
    if edge is None and demo is not None and demo.admin_key.startswith(f"{made.former.prefix}_"):
        _keep(context, made.secret)
        context.err.print(f"Commands on this machine call with the new key: it is kept in {context.home.demo_file}.")


def revoke(
    operator_key: OperatorKeyArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Revoke a key for good. One that works and never expires is always left."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client:
        revoke_key(context, client, operator_key_resource(operator_key), as_json)


def _keep(context: CommandContext, secret: str) -> bool:
    """Keeps a key as the local site's admin key, if there is a local site."""
    demo = read_demo(context.home)
    if demo is None:
        return False
    write_demo(context.home, demo.edge, secret, tuple(demo.api_keys.items()))
    return True


def operator_key_resource(text: str) -> str:
    """Gives the resource name of what a person names by its id, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    key = text.removeprefix("platform/apiKeys/")
    if not key or "/" in key:
        raise CliError(f"{text} is not an operator's key.", "`redoma operator list` shows them.")
    return f"platform/apiKeys/{key}"
