"""`redoma user`: the people of a tenant, who sign in with an identity provider."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.markup import escape

from redoma.tenant.v1.user_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
    UpdateUserRequest,
    User,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.names import child_id, child_resource
from redoma_cli.commands.options import EdgeOption, EtagOption, JsonOption, KeyOption, TenantArgument, YesOption
from redoma_cli.commands.output import list_table, print_json, settings_table, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.commands.roles import RoleName, role_text
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

UserArgument = Annotated[
    str, typer.Argument(metavar="TENANT/USER", help="The first column of `redoma user list`, or the resource name.")
]
ROLE_HELP = "viewer reads settings and usage, member talks to the model, admin keeps keys and users, owner does all."


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Administer the people of a tenant. `redoma identity-provider` says whose tokens they sign in with.",
        epilog="Example:  redoma user list acme",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command(
        "create",
        epilog="Example:  redoma user create acme --issuer https://login.example.com --subject 2482897 --role admin",
    )(create)
    group.command("list", epilog="Example:  redoma user list acme")(list_all)
    group.command("get", epilog="Example:  redoma user get acme/5d41402abc4b2a76b9719d911017c592")(get)
    group.command("update", epilog="Example:  redoma user update acme/5d41402a… --role viewer")(update)
    group.command("delete", epilog="Example:  redoma user delete acme/5d41402a…")(delete)
    return group


def create(
    tenant: TenantArgument,
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="The issuer of his tokens.")],
    subject: Annotated[str, typer.Option("--subject", help="Who he is to that issuer: the `sub` of his tokens.")],
    role: Annotated[RoleName, typer.Option("--role", help=ROLE_HELP)] = RoleName.MEMBER,
    name: Annotated[str, typer.Option("--name", help="What people call him.")] = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a user before the first sign-in, so that he has his role from the beginning."""
    context = make_context()
    user = User(issuer=issuer, subject=subject, role=role.number, display_name=name)
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = CreateUserRequest(parent=f"tenants/{tenant}", user=user)
        _show(context, client.users.CreateUser(request, timeout=CALL_TIMEOUT_S).user, as_json)


def list_all(
    tenant: TenantArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List a tenant's users."""
    context = make_context()
    request = ListUsersRequest(parent=f"tenants/{tenant}")
    with context.client(edge, key, ADMIN) as client, client.telling():
        users = list_items(client.users.ListUsers, request, lambda page: page.users)
    if as_json:
        print_json(users)
        return
    table = list_table(("user", "name", "role", "state", "subject", "issuer", "created"), whole=("user",))
    for user in users:
        table.add_row(
            child_id(user.name),
            escape(user.display_name),
            role_text(user.role),
            _state(user),
            escape(user.subject),
            escape(user.issuer),
            short_time(user.create_time),
        )
    context.out.print(table)


def get(user: UserArgument, edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a user."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = GetUserRequest(name=user_resource(user))
        _show(context, client.users.GetUser(request, timeout=CALL_TIMEOUT_S).user, as_json)


def update(
    user: UserArgument,
    role: Annotated[RoleName | None, typer.Option("--role", help=ROLE_HELP)] = None,
    name: Annotated[str | None, typer.Option("--name", help="What people call him.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether he may sign in.")] = None,
    etag: EtagOption = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a user. Disabling him ends his running calls."""
    context = make_context()
    wanted, paths = User(name=user_resource(user), etag=etag), []
    if role is not None:
        wanted.role = role.number
        paths.append("role")
    if name is not None:
        wanted.display_name = name
        paths.append("display_name")
    if enabled is not None:
        wanted.state = User.STATE_ACTIVE if enabled else User.STATE_DISABLED
        paths.append("state")
    if not paths:
        raise CliError("There is nothing to change.", "Give --role, --name, --enable or --disable.")
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = UpdateUserRequest(user=wanted, update_mask=FieldMask(paths=paths))
        _show(context, client.users.UpdateUser(request, timeout=CALL_TIMEOUT_S).user, as_json)


def delete(
    user: UserArgument,
    etag: EtagOption = "",
    yes: YesOption = False,
    edge: EdgeOption = None,
    key: KeyOption = None,
) -> None:
    """Delete a user and end his running calls. What he said is kept until `redoma privacy erase`."""
    context = make_context()
    request = DeleteUserRequest(name=user_resource(user), etag=etag)
    confirm(f"Delete the user {user} and end his running calls?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling():
        client.users.DeleteUser(request, timeout=CALL_TIMEOUT_S)
    context.out.print(f"Deleted {escape(user)}.")


def user_resource(text: str) -> str:
    """Gives the resource name of what a person names as tenant/user, or by the resource name itself.

    Raises:
        CliError: It is neither.
    """
    return child_resource(text, "users", "a user", "redoma user list TENANT")


def _state(user: User) -> str:
    return User.State.Name(user.state).removeprefix("STATE_").lower()


def _show(context: CommandContext, user: User, as_json: bool) -> None:
    if as_json:
        print_json(user)
        return
    rows = (
        ("user", child_id(user.name)),
        ("name", user.display_name),
        ("role", role_text(user.role)),
        ("state", _state(user)),
        ("issuer", user.issuer),
        ("subject", user.subject),
        ("created", short_time(user.create_time)),
        ("changed", short_time(user.update_time)),
        ("etag", user.etag),
    )
    context.out.print(settings_table(rows))
