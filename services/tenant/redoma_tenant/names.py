"""Resource names and the rules for what people call things."""

import re
import unicodedata

from redoma_kit.errors import InvalidField
from redoma_kit.identity import Identity

TENANT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
API_KEY_ID = re.compile(r"[0-9a-f]{16}")
MAX_DISPLAY_NAME = 200
OWN = "-"


def tenant_name(tenant: str) -> str:
    """Gives the resource name of a tenant."""
    return f"tenants/{tenant}"


def api_key_name(tenant: str, api_key: str) -> str:
    """Gives the resource name of an API key."""
    return f"tenants/{tenant}/apiKeys/{api_key}"


def check_tenant_id(field: str, value: str) -> None:
    """Raises InvalidField unless `value` may be a tenant's id."""
    if not TENANT_ID.fullmatch(value):
        raise InvalidField(
            field, "must be 1 to 63 of a-z, 0-9 and '-', begin with a letter and not end with '-', such as acme."
        )


def check_display_name(field: str, value: str) -> None:
    """Raises InvalidField if `value` is too long or holds control characters."""
    if len(value) > MAX_DISPLAY_NAME:
        raise InvalidField(field, f"has {len(value)} characters; the most is {MAX_DISPLAY_NAME}.")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise InvalidField(field, "must not hold control characters.")


def parse_tenant_name(field: str, name: str) -> str:
    """Gives the tenant's id in `tenants/{tenant}`.

    Raises:
        InvalidField: `name` is of another form.
    """
    collection, _, tenant = name.partition("/")
    if collection != "tenants" or not TENANT_ID.fullmatch(tenant):
        raise InvalidField(field, "must have the form tenants/{tenant}.")
    return tenant


def parse_parent(field: str, parent: str, caller: Identity) -> str:
    """Gives the tenant's id in `tenants/{tenant}`, the caller's own for `tenants/-`.

    Raises:
        InvalidField: `parent` is of another form, or the caller has no tenant.
        TenantMismatch: It is a tenant that the caller may not act for.
    """
    if parent == tenant_name(OWN):
        if not caller.tenant:
            raise InvalidField(field, "this key belongs to no tenant, so name one: tenants/{tenant}.")
        return caller.tenant
    tenant = parse_tenant_name(field, parent)
    caller.check_tenant(tenant)
    return tenant


def parse_api_key_name(field: str, name: str, caller: Identity) -> tuple[str, str]:
    """Gives the tenant's and the key's id in `tenants/{tenant}/apiKeys/{key}`.

    Raises:
        InvalidField: `name` is of another form.
        TenantMismatch: It is of a tenant that the caller may not act for.
    """
    parent, separator, api_key = name.partition("/apiKeys/")
    if not separator or not API_KEY_ID.fullmatch(api_key):
        raise InvalidField(field, "must have the form tenants/{tenant}/apiKeys/{key}.")
    tenant = parse_tenant_name(field, parent)
    caller.check_tenant(tenant)
    return tenant, api_key
