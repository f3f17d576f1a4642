"""What is a tenant's, as people name it: TENANT/ID."""

from redoma_cli.errors import CliError


def child_id(resource: str) -> str:
    """Gives TENANT/ID of the resource name of something that is a tenant's."""
    _, tenant, _, last = resource.split("/")
    return f"{tenant}/{last}"


def child_resource(text: str, collection: str, noun: str, list_command: str) -> str:
    """Gives the resource name of what a person names as TENANT/ID, or by the resource name itself.

    Raises:
        CliError: It is neither; `noun` says with its article what it should be, `list_command` what shows them.
    """
    parts = text.split("/")
    if len(parts) == 2 and all(parts):
        return f"tenants/{parts[0]}/{collection}/{parts[1]}"
    if len(parts) == 4 and parts[0] == "tenants" and parts[2] == collection:
        return text
    form = f"TENANT/{noun.rpartition(' ')[2].upper()}"
    raise CliError(f"{text} is not {noun}'s name.", f"Write it as {form}; `{list_command}` shows them.")
