"""`redoma identity-provider`: whose tokens people sign in with."""

from typing import Annotated

import typer
from rich.markup import escape

from redoma.tenant.v1.user_pb2 import (
    CreateIdentityProviderRequest,
    DeleteIdentityProviderRequest,
    IdentityProvider,
    ListIdentityProvidersRequest,
)
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.confirming import confirm
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption, YesOption
from redoma_cli.commands.output import list_table, print_json, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.commands.roles import RoleName, role_text
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError

ProviderArgument = Annotated[
    str, typer.Argument(metavar="PROVIDER", help="The first column of `redoma identity-provider list`.")
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Let people sign in with tokens of an OpenID Connect provider; needs the admin key.",
        epilog="Example:  redoma identity-provider create https://login.example.com --audience redoma --tenant acme",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command(
        "create",
        epilog="Example:  redoma identity-provider create https://login.example.com --audience redoma"
        " --tenant-claim org --roles-claim realm_access.roles --role chat-admins=admin --default-role member",
    )(create)
    group.command("list", epilog="Example:  redoma identity-provider list")(list_all)
    group.command("delete", epilog="Example:  redoma identity-provider delete 3f0c9a12b4d5e6f7")(delete)
    return group


def create(
    issuer: Annotated[
        str, typer.Argument(metavar="ISSUER", help="Its URL, exactly as `iss` of its tokens has it; it must answer.")
    ],
    audience: Annotated[str, typer.Option("--audience", help="The `aud` that its tokens must carry.")],
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant of all its users.")] = "",
    tenant_claim: Annotated[
        str, typer.Option("--tenant-claim", help="Or the claim that holds a user's tenant's id.")
    ] = "",
    roles_claim: Annotated[
        str, typer.Option("--roles-claim", help="The claim that holds a user's roles, such as realm_access.roles.")
    ] = "",
    role: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="VALUE=ROLE", help="What a value of that claim means; repeat for more."),
    ] = None,
    default_role: Annotated[
        RoleName | None,
        typer.Option("--default-role", help="The role of users whose claims say none; left out, these are refused."),
    ] = None,
    operator_role: Annotated[
        str,
        typer.Option(
            "--operator-role", help="The value of that claim that makes an operator of all tenants; not with --tenant."
        ),
    ] = "",
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an issuer's tokens credentials. Its keys are fetched by discovery."""
    context = make_context()
    provider = IdentityProvider(
        issuer=issuer,
        audience=audience,
        tenant=tenant and f"tenants/{tenant.removeprefix('tenants/')}",
        tenant_claim=tenant_claim,
        roles_claim=roles_claim,
        operator_role=operator_role,
    )
    for text in role or []:
        value, meant = parse_role(text)
        provider.roles[value] = meant.number
    if default_role is not None:
        provider.default_role = default_role.number
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = CreateIdentityProviderRequest(identity_provider=provider)
        made = client.users.CreateIdentityProvider(request, timeout=CALL_TIMEOUT_S).identity_provider
    if as_json:
        print_json(made)
    else:
        _print(context, [made])


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the identity providers."""
    context = make_context()
    request = ListIdentityProvidersRequest()
    with context.client(edge, key, ADMIN) as client, client.telling():
        providers = list_items(client.users.ListIdentityProviders, request, lambda page: page.identity_providers)
    if as_json:
        print_json(providers)
    else:
        _print(context, providers)


def delete(provider: ProviderArgument, yes: YesOption = False, edge: EdgeOption = None, key: KeyOption = None) -> None:
    """Refuse an identity provider's tokens from now on. Its users are kept."""
    context = make_context()
    confirm(f"Refuse the tokens of {provider} from now on?", yes)
    with context.client(edge, key, ADMIN) as client, client.telling():
        request = DeleteIdentityProviderRequest(name=f"identityProviders/{short_name(provider)}")
        client.users.DeleteIdentityProvider(request, timeout=CALL_TIMEOUT_S)
    context.out.print(f"Deleted {escape(provider)}.")


def parse_role(text: str) -> tuple[str, RoleName]:
    """Reads what a claim's value means, such as chat-admins=admin.

    Raises:
        CliError: It has another form, or the role is none that there is.
    """
    value, separator, role = text.rpartition("=")
    if not separator or not value or role not in tuple(RoleName):
        roles = ", ".join(RoleName)
        raise CliError(f"{text} does not say what a value means.", f"Write VALUE=ROLE with a role among {roles}.")
    return value, RoleName(role)


def _print(context: CommandContext, providers: list[IdentityProvider]) -> None:
    columns = ("provider", "issuer", "audience", "tenant", "roles", "otherwise", "created")
    table = list_table(columns, whole=("provider",))
    for item in providers:
        table.add_row(
            short_name(item.name),
            escape(item.issuer),
            escape(item.audience),
            escape(short_name(item.tenant) if item.tenant else f"by {item.tenant_claim}"),
            escape(_roles(item)),
            role_text(item.default_role) or "refused",
            short_time(item.create_time),
        )
    context.out.print(table)


def _roles(provider: IdentityProvider) -> str:
    meanings = [f"{value}={role_text(role)}" for value, role in sorted(provider.roles.items())]
    if provider.operator_role:
        meanings.append(f"{provider.operator_role}=operator")
    return f"by {provider.roles_claim}: {', '.join(meanings)}" if meanings else ""
