"""What is done with keys alike, whether they are a tenant's or an operator's."""

from datetime import timedelta

from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1.api_key_pb2 import (
    ApiKey,
    ListApiKeysRequest,
    RevokeApiKeyRequest,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
)
from redoma_cli.client import CALL_TIMEOUT_S, EdgeClient
from redoma_cli.commands.durations import parse_duration
from redoma_cli.commands.limits import limit_rows
from redoma_cli.commands.names import child_id
from redoma_cli.commands.output import list_table, print_json, settings_table, short_name, short_time
from redoma_cli.commands.pages import list_items
from redoma_cli.context import CommandContext


def list_keys(client: EdgeClient, parent: str) -> list[ApiKey]:
    """Gives all keys of a tenant, or of operators, the newest first."""
    return list_items(client.keys.ListApiKeys, ListApiKeysRequest(parent=parent), lambda page: page.api_keys)


def key_table(keys: list[ApiKey]) -> Table:
    """Gives a table of keys."""
    columns = ("key", "name", "begins with", "state", "may", "created", "last used", "expires")
    table = list_table(columns, whole=("key", "begins with", "state"))
    for item in keys:
        table.add_row(
            key_id(item),
            escape(item.display_name),
            item.prefix,
            _state(item),
            ", ".join(item.scopes),
            short_time(item.create_time),
            short_time(item.last_use_time),
            short_time(item.expire_time),
        )
    return table


def show_key(context: CommandContext, api_key: ApiKey, as_json: bool) -> None:
    """Prints a key's settings."""
    if as_json:
        print_json(api_key)
        return
    rows = [
        ("key", key_id(api_key)),
        ("name", api_key.display_name),
        ("begins with", api_key.prefix),
        ("state", _state(api_key)),
        ("may", ", ".join(api_key.scopes)),
        ("models", ", ".join(api_key.models)),
        ("from", ", ".join(api_key.cidrs)),
        ("user", short_name(api_key.user)),
        *limit_rows(api_key.limits),
        ("created", short_time(api_key.create_time)),
        ("last used", short_time(api_key.last_use_time)),
        ("expires", short_time(api_key.expire_time)),
        ("revoked", short_time(api_key.revoke_time)),
        ("replaced by", short_name(api_key.replaced_by)),
        ("etag", api_key.etag),
    ]
    context.out.print(settings_table(rows))


def rotate_key(
    context: CommandContext, client: EdgeClient, resource: str, overlap: str, as_json: bool
) -> RotateApiKeyResponse:
    """Rotates a key, prints the one that takes its place, and gives what was answered."""
    request = RotateApiKeyRequest(name=resource)
    request.overlap.FromTimedelta(timedelta() if overlap == "none" else parse_duration(overlap))
    with client.telling():
        made = client.keys.RotateApiKey(request, timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(made)
        return made
    print(made.secret, flush=True)
    is_revoked = made.former.state == ApiKey.STATE_REVOKED
    former = "is revoked" if is_revoked else f"works until {short_time(made.former.expire_time)}"
    context.err.print(f"Keep it: it is not shown again. The former key, {made.former.prefix}…, {former}.")
    return made


def revoke_key(context: CommandContext, client: EdgeClient, resource: str, as_json: bool) -> None:
    """Revokes a key and says so."""
    with client.telling():
        revoked = client.keys.RevokeApiKey(RevokeApiKeyRequest(name=resource), timeout=CALL_TIMEOUT_S).api_key
    if as_json:
        print_json(revoked)
    else:
        context.out.print(f"Revoked {revoked.prefix}…")


def key_id(api_key: ApiKey) -> str:
    """Names a key for people: tenant/key, or the key alone for an operator's."""
    return child_id(api_key.name) if api_key.name.startswith("tenants/") else short_name(api_key.name)


def _state(api_key: ApiKey) -> str:
    return ApiKey.State.Name(api_key.state).removeprefix("STATE_").lower()
